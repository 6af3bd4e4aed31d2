// The loop: steps, logs, evaluation, checkpoints, and the model directory at the end.
#pragma once

#include "train/setup.h"

namespace attune::train {

// Runs to the end, or until interrupted (SIGINT, SIGTERM: a checkpoint is written, then it throws).
// `activation_bytes` comes from the plan. Returns train_results.json as text.
std::string run_training(RunSetup& setup, uint64_t activation_bytes);

}  // namespace attune::train
