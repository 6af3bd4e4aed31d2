// [config.yaml] [key=value …] → configuration.
#pragma once

#include <string>
#include <vector>

#include "models/adapter_set.h"
#include "train/config.h"

namespace attune::cli {

train::Config read_config(const std::vector<std::string>& arguments, bool needs_data = true);
// The same where the file may hold a pipeline; at least one.
std::vector<train::Config> read_stages(const std::vector<std::string>& arguments, bool needs_data = true);
// Values of --adapter and of --use. One value is a chain ("first,second": the second was trained on top of the first); several, or one with a name or a
// choice, are adapters of their own: NAME=DIR, or DIR, whose last part is then its name. `switching`: one directory alone is a
// set too.
models::AdapterRequest adapters_of(const std::vector<std::string>& values, const std::string& use, bool switching = false);
// How the base was held while an adapter was trained, as the run recorded that left it.
Quantization trained_on(const std::string& adapter);
// Says where an adapter has learnt beside a base in fewer bits and is used beside another one.
void note_base(const models::AdapterRequest& adapters, const Quantization& held);
std::vector<std::string> read_lines(const std::string& file);
// A JSON array of token ids from 0 to `vocab_size`; `where` names the line in messages.
std::vector<int32_t> read_ids(const std::string& line, const std::string& where, int64_t vocab_size);

}  // namespace attune::cli
