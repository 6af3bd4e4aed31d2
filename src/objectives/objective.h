// What is minimised. An objective turns one micro-batch into a loss and, when training, into gradients.
#pragma once

#include "models/decoder.h"
#include "objectives/batch_view.h"

namespace attune::objectives {

// What the loss of a step is divided by, known before the first backward.
enum class Normaliser { labelled_weight, sequences, groups, constant };

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Normaliser normaliser() const = 0;
  // Forward, and backward when `tape` trains and the loss is finite. Returns this micro-batch's share of the step's loss
  // (0 in dry mode).
  virtual double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
                     const models::ForwardOptions& options) const = 0;
};

double normaliser_of(const Objective& objective, const Step& step);

// Next-token prediction: SFT and continued pre-training. loss = Σ weight·nll / Σ weight over the whole step.
// `label_smoothing` belongs to training: a loss that is only measured is the plain one, so that perplexity means perplexity.
class CausalLm : public Objective {
 public:
  explicit CausalLm(float label_smoothing = 0) : label_smoothing_(label_smoothing) {}
  Normaliser normaliser() const override { return Normaliser::labelled_weight; }
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;

 private:
  float label_smoothing_;
};

}  // namespace attune::objectives
