// What a finished run left in its output_dir: the figures that runs are compared by.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "util/files.h"
#include "util/json.h"

namespace attune::runs {

// A loss before the first update (eval_on_start) and of the result.
struct Change {
  std::optional<double> before, after;
};

// Whatever the run did not record is missing.
struct Run {
  std::string directory, name;  // its last part
  std::string stage, method;    // "LoRA, rank 8"; of earlier versions finetuning_type alone
  std::optional<int64_t> trained, parameters, steps;
  std::optional<double> train_loss;  // mean over all updates
  Change validation;
  std::vector<std::pair<std::string, Change>> data_sets;  // where several were watched
  std::optional<double> seconds, tokens_per_second;
  std::optional<int64_t> peak_memory_bytes;
};

// Refuses a directory that holds no finished run; fails on files that are damaged.
Run read_run(const fs::path& directory);

Json run_json(const Run& run);

// A row a run, with the columns that any of them has a figure for. Aligned for a terminal, or as Markdown.
std::string table(const std::vector<Run>& runs, bool markdown);

}  // namespace attune::runs
