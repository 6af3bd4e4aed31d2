// What is minimised. An objective turns one micro-batch into a loss and, when training, into gradients.
#pragma once

#include "models/decoder.h"
#include "objectives/batch_view.h"

namespace attune::objectives {

// What the loss of a step is divided by, known before the first backward.
enum class Normaliser { labelled_weight, sequences, groups, constant };

// What must be known of a whole step before its first backward: the log-probabilities of all its sequences, or those of
// its probes (Step::probes). With a single micro-batch `sequences` costs nothing: the objective sees them all itself.
enum class LookAhead { none, sequences, probes };

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Normaliser normaliser() const = 0;
  virtual LookAhead look_ahead() const { return LookAhead::none; }
  // Whether the head knows the coefficients of log-probabilities beforehand and may work in vocabulary slabs (nn/head.h).
  virtual bool knows_coefficients() const { return false; }
  // Names of BatchView::measures, in their order.
  virtual std::vector<std::string> measure_names() const { return {}; }
  // Forward, and backward when `tape` trains and the loss is finite. Returns this micro-batch's share of the step's loss
  // (0 in dry mode).
  virtual double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
                     const models::ForwardOptions& options) const = 0;
};

double normaliser_of(const Objective& objective, const Step& step);

}  // namespace attune::objectives
