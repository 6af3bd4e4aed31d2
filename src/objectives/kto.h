// Answers that are judged good or bad, without a counterpart; r = log π(y|x) − log π_ref(y|x).
//
//   kto (Ethayarajh et al. 2024, arXiv:2402.01306)
//     good: 1 − σ(β·(r − KL)),  bad: 1 − σ(β·(KL − r))
//     KL = max(0, mean of r over probes: prompts with the answer of another row), taken over the whole step
//   bco (Jung et al. 2024, arXiv:2404.04656)
//     good: −log σ(β·r − δ),  bad: −log σ(δ − β·r)
//     δ = ½·(mean of β·r over good answers + mean over bad ones), taken over the whole step
//   apo_zero (D'Oosterlinck et al. 2024, arXiv:2408.06266)
//     good: 1 − σ(β·r),  bad: σ(β·r)
#pragma once

#include "objectives/objective.h"

namespace attune::objectives {

struct KtoOptions {
  enum class Loss { kto, bco, apo_zero };
  double beta = 0.1;
  double good_weight = 1, bad_weight = 1;
  Loss loss = Loss::kto;
};

class Kto : public Objective {
 public:
  explicit Kto(const KtoOptions& options) : options_(options) {}
  Normaliser normaliser() const override { return Normaliser::sequences; }
  LookAhead look_ahead() const override;
  std::vector<std::string> measure_names() const override;
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;

 private:
  // What the reward of an answer is compared with.
  double threshold(std::span<const SequenceLogp> seen) const;

  KtoOptions options_;
};

}  // namespace attune::objectives
