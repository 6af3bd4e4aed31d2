// The objective that a configuration asks for.
#pragma once

#include <memory>

#include "objectives/objective.h"
#include "train/config.h"

namespace attune::train {

// Refuses settings of the objective that do not go together.
void check_objective(const Config& config);
std::unique_ptr<objectives::Objective> make_objective(const Config& config);
// Whether the loss compares the model with a reference (SideValues::reference_logp).
bool needs_reference(const Config& config);
// Whether the head scores sequences instead of words.
inline bool scores_sequences(const Config& config) { return config.stage == "rm"; }

}  // namespace attune::train
