#include "objectives/kto.h"

#include <algorithm>
#include <cmath>

#include "objectives/sequence_logps.h"

namespace attune::objectives {
namespace {

enum Measure : size_t { chosen_reward, rejected_reward, accuracy, kl_to_reference, chosen_logp, rejected_logp };

double ratio(const SequenceLogp& s) { return s.logp - s.side.reference_logp; }

double kl_of(std::span<const SequenceLogp> probes) {
  double sum = 0;
  for (const SequenceLogp& s : probes) sum += ratio(s);
  return probes.empty() ? 0 : std::max(0.0, sum / static_cast<double>(probes.size()));
}

}  // namespace

std::vector<std::string> Kto::measure_names() const {
  return {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "kl", "logps/chosen", "logps/rejected"};
}

double Kto::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options) const {
  AnswerPass pass(tape, model, batch, compute, options);
  if (tape.context().dry()) {
    if (tape.training()) pass.backward({});
    return 0;
  }
  const std::vector<SequenceLogp>& sequences = pass.sequences();
  const double kl = kl_of(batch.ahead());
  std::vector<double> slope(sequences.size());
  double loss = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceLogp& s = sequences[i];
    const bool good = s.side.desirable > 0;
    const double sign = good ? 1 : -1, weight = good ? options_.good_weight : options_.bad_weight;
    const double x = sign * options_.beta * (ratio(s) - kl), won = 1 / (1 + std::exp(-x));
    const double own = weight * (1 - won);
    loss += own / batch.normaliser();
    slope[i] = -weight * won * (1 - won) * sign * options_.beta / batch.normaliser();
    if (Measures* m = batch.measures) {
      m->add(good ? chosen_reward : rejected_reward, options_.beta * ratio(s));
      m->add(accuracy, good == (ratio(s) > kl));
      m->add(kl_to_reference, kl);
      m->add(good ? chosen_logp : rejected_logp, s.logp);
    }
    if (batch.outcomes) batch.outcomes->push_back({batch.batch().sequence_samples[i], own, 1, s.labels, s.correct});
  }
  if (tape.training() && std::isfinite(loss)) pass.backward(slope);
  return loss;
}

}  // namespace attune::objectives
