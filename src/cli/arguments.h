// [config.yaml] [key=value …] → configuration.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"

namespace attune::cli {

train::Config read_config(const std::vector<std::string>& arguments, bool needs_data = true);
// The same where the file may hold a pipeline; at least one.
std::vector<train::Config> read_stages(const std::vector<std::string>& arguments, bool needs_data = true);
std::vector<std::string> read_lines(const std::string& file);
// A JSON array of token ids from 0 to `vocab_size`; `where` names the line in messages.
std::vector<int32_t> read_ids(const std::string& line, const std::string& where, int64_t vocab_size);

}  // namespace attune::cli
