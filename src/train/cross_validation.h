// k runs, each validated on the k-th of the data that it has not seen; then, if wanted, one on all of it.
#pragma once

#include <functional>
#include <string>

#include "train/setup.h"

namespace attune::train {

// Plans and runs one training; returns its results as JSON (as run_training does).
using RunOnce = std::function<std::string(const Config& config, const Fold& fold)>;

// Leaves fold-1 … fold-k and cross_validation.json in output_dir: the metrics of each fold, their mean and standard
// deviation. With resume_from_checkpoint: true finished folds are taken as they are and a broken one continues.
// Returns the content of cross_validation.json.
std::string cross_validate(const Config& config, const RunOnce& run);

}  // namespace attune::train
