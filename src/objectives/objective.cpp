#include "objectives/objective.h"

namespace attune::objectives {

double normaliser_of(const Objective& objective, const Step& step) {
  switch (objective.normaliser()) {
    case Normaliser::labelled_weight: return step.total_weight;
    case Normaliser::sequences: return static_cast<double>(step.total_sequences);
    case Normaliser::groups: return static_cast<double>(step.total_groups);
    case Normaliser::constant: return 1;
  }
  return 1;
}

}  // namespace attune::objectives
