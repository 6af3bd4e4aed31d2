#include "objectives/kto.h"

#include <algorithm>
#include <cmath>

#include "objectives/sequence_logps.h"

namespace attune::objectives {
namespace {

enum Measure : size_t { chosen_reward, rejected_reward, accuracy, threshold_reward, chosen_logp, rejected_logp };

double ratio(const SequenceLogp& s) { return s.logp - s.side.reference_logp; }

double mean_ratio(std::span<const SequenceLogp> sequences, double desirable) {
  double sum = 0, count = 0;
  for (const SequenceLogp& s : sequences)
    if (s.side.desirable == desirable) sum += ratio(s), ++count;
  return count > 0 ? sum / count : 0;
}

double kl_of(std::span<const SequenceLogp> probes) {
  double sum = 0;
  for (const SequenceLogp& s : probes) sum += ratio(s);
  return probes.empty() ? 0 : std::max(0.0, sum / static_cast<double>(probes.size()));
}

// A loss f(x) of x = ±(reward − threshold), larger where the judgement is met, with f'(x).
struct Slope {
  double loss, slope;
};
Slope slope_of(KtoOptions::Loss loss, double x) {
  const double met = 1 / (1 + std::exp(-x));
  if (loss != KtoOptions::Loss::bco) return {1 - met, -met * (1 - met)};
  return {x >= 0 ? std::log1p(std::exp(-x)) : std::log1p(std::exp(x)) - x, met - 1};
}

}  // namespace

LookAhead Kto::look_ahead() const {
  return options_.loss == KtoOptions::Loss::kto ? LookAhead::probes : options_.loss == KtoOptions::Loss::bco ? LookAhead::sequences : LookAhead::none;
}

double Kto::threshold(std::span<const SequenceLogp> seen) const {
  if (options_.loss == KtoOptions::Loss::kto) return options_.beta * kl_of(seen);
  return options_.loss == KtoOptions::Loss::bco ? options_.beta * 0.5 * (mean_ratio(seen, 1) + mean_ratio(seen, 0)) : 0;
}

std::vector<std::string> Kto::measure_names() const {
  return {"rewards/chosen", "rewards/rejected", "rewards/accuracies", options_.loss == KtoOptions::Loss::kto ? "kl" : "threshold", "logps/chosen", "logps/rejected"};
}

double Kto::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options) const {
  AnswerPass pass(tape, model, batch, compute, options);
  if (tape.context().dry()) {
    if (tape.training()) pass.backward({});
    return 0;
  }
  const std::vector<SequenceLogp>& sequences = pass.sequences();
  // Without look-ahead this micro-batch is the whole step.
  const bool own = batch.ahead().empty() && options_.loss == KtoOptions::Loss::bco;
  const double limit = threshold(own ? std::span(sequences) : batch.ahead());
  std::vector<double> slope(sequences.size());
  double loss = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceLogp& s = sequences[i];
    const bool good = s.side.desirable > 0;
    const double sign = good ? 1 : -1, weight = s.side.weight * (good ? options_.good_weight : options_.bad_weight), reward = options_.beta * ratio(s);
    const Slope f = slope_of(options_.loss, sign * (reward - limit));
    loss += weight * f.loss / batch.normaliser();
    slope[i] = weight * f.slope * sign * options_.beta / batch.normaliser();
    if (Measures* m = batch.measures) {
      m->add(good ? chosen_reward : rejected_reward, reward);
      m->add(accuracy, good == (reward > limit));
      // KL itself, not times β.
      m->add(threshold_reward, options_.loss == KtoOptions::Loss::kto ? limit / options_.beta : limit);
      m->add(good ? chosen_logp : rejected_logp, s.logp);
    }
    if (batch.outcomes) batch.outcomes->push_back({batch.batch().sequence_samples[i], weight * f.loss, 1, s.labels, s.correct});
  }
  if (tape.training() && std::isfinite(loss)) pass.backward(slope);
  return loss;
}

}  // namespace attune::objectives
