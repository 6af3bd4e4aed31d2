#include "objectives/reward.h"

#include <cmath>

#include "nn/score_head.h"
#include "ops/context.h"
#include "tensor/transfer.h"
#include "util/error.h"

namespace attune::objectives {
namespace {

enum Measure : size_t { chosen_reward, rejected_reward, accuracy, margin };

}  // namespace

std::vector<std::string> Reward::measure_names() const { return {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}; }

double Reward::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options) const {
  nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
  nn::Value scores = nn::sequence_scores(tape, hidden, model.head_weight(), batch.sequence_ends(), batch.sequences());
  const Tensor gradient = tape.context().arena().matrix(batch.sequences(), 1, DType::f32);
  scores->gradient = gradient;
  scores->gradient_written = true;
  if (tape.context().dry()) {
    if (tape.training()) tape.backward();
    return 0;
  }
  const MicroBatch& b = batch.batch();
  if (b.sequence_count() % 2 != 0) fail("internal error: a micro-batch of pairs has {} sequences", b.sequence_count());
  Device& device = tape.context().device();
  const std::vector<float> score = floats_of(device, scores->value);
  std::vector<float> slopes(score.size());
  double loss = 0;
  for (int64_t i = 0; i + 1 < b.sequence_count(); i += 2) {
    const auto s = static_cast<size_t>(i);
    const double won = score[s], lost = score[s + 1];
    const SideValues& side = b.side[s];
    const double x = won - lost - side.margin;
    const double own = side.weight * ((x >= 0 ? std::log1p(std::exp(-x)) : std::log1p(std::exp(x)) - x) + center_ * (won + lost) * (won + lost));
    const double slope = -side.weight / (1 + std::exp(x)), pull = 2 * side.weight * center_ * (won + lost);
    slopes[s] = static_cast<float>((slope + pull) / batch.normaliser());
    slopes[s + 1] = static_cast<float>((-slope + pull) / batch.normaliser());
    loss += own / batch.normaliser();
    if (Measures* m = batch.measures) {
      m->add(chosen_reward, won);
      m->add(rejected_reward, lost);
      m->add(accuracy, won > lost);
      m->add(margin, won - lost);
    }
    if (!batch.outcomes) continue;
    batch.outcomes->push_back({b.sequence_samples[static_cast<size_t>(i)], own, 1, 0, 0, won - lost});
    batch.outcomes->push_back({b.sequence_samples[static_cast<size_t>(i) + 1]});
  }
  put(device, gradient, 0, slopes);
  if (tape.training() && std::isfinite(loss)) tape.backward();
  return loss;
}

}  // namespace attune::objectives
