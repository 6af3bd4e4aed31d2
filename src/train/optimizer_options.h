// What the configuration says about the optimizer, in Hugging Face's names (optim, optim_args) or LLaMA-Factory's
// (use_galore, use_apollo, use_muon).
#pragma once

#include "optim/optimizer.h"
#include "train/config.h"

namespace attune::train {

optim::OptimizerOptions optimizer_options(const Config& config);

// Refuses switches that contradict each other.
void check_optimizer(const Config& config);

// Whether the optimizer's name or switch means updates inside the backward pass (lomo, adalomo, layer-wise ones).
bool implies_update_in_backward(const Config& config);

}  // namespace attune::train
