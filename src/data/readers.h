// Data files → records. The format is told from the content of each row, not from its name:
//
//   {"text"}                               plain text
//   {"instruction", "input", "output"}     alpaca (with "system", "history")
//   {"conversations": [{from, value}]}     ShareGPT (with "system", "tools")
//   {"messages": [{role, content}]}        OpenAI messages (per-message "weight", "loss" or "loss_weight")
//   .txt                                   one document a line
//
// JSONL, or a JSON list (also inside a file named otherwise). A row that cannot be used is reported with file and line.
#pragma once

#include <filesystem>
#include <vector>

#include "data/record.h"

namespace attune::data {

struct ReadOptions {
  bool pretraining = false;  // rows must be text
  int64_t max_samples = 0;   // per file; 0: all
};

// Appends the rows of `file`. Throws when the file is not data at all, or when no row of it is usable.
void read_records(const std::filesystem::path& file, const ReadOptions& options, Records& records, DataReport& report);

}  // namespace attune::data
