#include "objectives/causal_lm.h"

#include <cmath>

#include "objectives/sequence_logps.h"

namespace attune::objectives {
namespace {

void note_outcomes(const BatchView& batch) {
  std::vector<SequenceLogp> sequences;
  sum_by_sequence(batch, sequences);
  const MicroBatch& b = batch.batch();
  size_t label = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    double weight = 0;
    for (int64_t i = 0; i < sequences[s].labels; ++i) weight += b.loss_weights[label++];
    batch.outcomes->push_back({b.sequence_samples[s], -sequences[s].logp, weight, sequences[s].labels, sequences[s].correct});
  }
}

}  // namespace

double CausalLm::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
                     const models::ForwardOptions& options) const {
  nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
  const bool dynamic = dynamic_ && tape.training();
  model.head().loss(tape, hidden, batch.targets(), {batch.logp(), batch.correct(), tape.training() ? label_smoothing_ : 0.0f, nullptr, dynamic});
  double loss = 0;
  if (!tape.context().dry()) {
    const auto logp = batch.logp_on_host(), coefficient = batch.coefficients();
    for (size_t i = 0; i < logp.size(); ++i) loss -= static_cast<double>(coefficient[i]) * logp[i] * (dynamic ? std::exp(static_cast<double>(logp[i])) : 1.0);
    if (batch.outcomes) note_outcomes(batch);
  }
  // What is not finite must not reach weights that are updated inside backward.
  if (tape.training() && std::isfinite(loss)) tape.backward();
  return loss;
}

}  // namespace attune::objectives
