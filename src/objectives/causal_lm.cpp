#include "objectives/objective.h"

#include <cmath>

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

double CausalLm::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
                     const models::ForwardOptions& options) const {
  nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
  model.head().loss(tape, hidden, batch.targets(), {batch.logp(), batch.correct(), tape.training() ? label_smoothing_ : 0.0f, nullptr});
  double loss = 0;
  if (!tape.context().dry()) {
    const auto* logp = batch.logp().as<float>();
    const auto* coefficient = batch.targets().coefficient.as<float>();
    for (int64_t i = 0; i < batch.targets().rows.count; ++i) loss -= static_cast<double>(coefficient[i]) * logp[i];
  }
  // What is not finite must not reach weights that are updated inside backward.
  if (tape.training() && std::isfinite(loss)) tape.backward();
  return loss;
}

}  // namespace attune::objectives
