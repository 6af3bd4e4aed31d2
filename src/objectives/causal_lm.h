// Next-token prediction: SFT and continued pre-training.
#pragma once

#include "objectives/objective.h"

namespace attune::objectives {

// loss = Σ weight·nll / Σ weight over the whole step. `label_smoothing` and `dynamic` belong to training: a loss that is only
// measured is the plain one, so that perplexity means perplexity.
//
// `dynamic` (DFT, Wu et al. 2025): the loss of a token counts times the probability of its label, which is held fixed:
// p·nll, with the gradient p·∂nll. Not beside label smoothing.
class CausalLm : public Objective {
 public:
  explicit CausalLm(float label_smoothing = 0, bool dynamic = false) : label_smoothing_(label_smoothing), dynamic_(dynamic) {}
  Normaliser normaliser() const override { return Normaliser::labelled_weight; }
  bool knows_coefficients() const override { return true; }
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;

 private:
  float label_smoothing_;
  bool dynamic_;
};

}  // namespace attune::objectives
