// A plan as text and as JSON.
#pragma once

#include "plan/ladder.h"
#include "plan/planner.h"

namespace attune::plan {

// `suggestions`: what fits instead, cheapest first; may be empty.
std::string plan_text(const Plan& plan, const std::vector<Suggestion>& suggestions);
// {"peak_memory_bytes", "parts", "tokens_per_second", "duration_seconds", "fits", …}; the parts add up to the peak.
std::string plan_json(const Plan& plan, const std::vector<Suggestion>& suggestions);

}  // namespace attune::plan
