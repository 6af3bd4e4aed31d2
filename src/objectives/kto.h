// KTO (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are judged good or bad, without a counterpart.
//
//   good: 1 − σ(β·(r − KL)),  bad: 1 − σ(β·(KL − r)),  r = log π(y|x) − log π_ref(y|x)
//   KL = max(0, mean of r over probes: prompts with the answer of another row), taken over the whole step
#pragma once

#include "objectives/objective.h"

namespace attune::objectives {

struct KtoOptions {
  double beta = 0.1;
  double good_weight = 1, bad_weight = 1;
};

class Kto : public Objective {
 public:
  explicit Kto(const KtoOptions& options) : options_(options) {}
  Normaliser normaliser() const override { return Normaliser::sequences; }
  LookAhead look_ahead() const override { return LookAhead::probes; }
  std::vector<std::string> measure_names() const override;
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;

 private:
  KtoOptions options_;
};

}  // namespace attune::objectives
