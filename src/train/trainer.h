// The loop: steps, logs, evaluation, checkpoints, and the model directory at the end.
#pragma once

#include "train/setup.h"

namespace attune::train {

// Refuses what only the loop asks of a configuration (schedule, metric_for_best_model, ref_model), so that plans and pipelines see it before any of it runs.
void check_run(const RunSetup& setup);

// Runs to the end, or until interrupted (SIGINT, SIGTERM: a checkpoint is written, then it throws).
// `activation_bytes` comes from the plan. Returns train_results.json as text.
std::string run_training(RunSetup& setup, uint64_t activation_bytes);

}  // namespace attune::train
