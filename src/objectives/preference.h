// Preference tuning on pairs: DPO and its relatives. The sequences of a group are the chosen and the rejected answer.
#pragma once

#include "objectives/objective.h"
#include "objectives/preference_losses.h"

namespace attune::objectives {

class Preference : public Objective {
 public:
  struct Term {
    const PreferenceLoss* loss;
    double weight = 1;
  };
  Preference(std::vector<Term> terms, const PreferenceOptions& options);

  Normaliser normaliser() const override { return Normaliser::groups; }
  LookAhead look_ahead() const override { return matched_ ? LookAhead::sequences : LookAhead::none; }
  // Those of TRL's trainers.
  std::vector<std::string> measure_names() const override;
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;
  // Whether a term needs SideValues::reference_logp.
  bool needs_reference() const;

  // What one pair of `step`'s comes to. `matched_reference`: for AOT the reference's log-ratio that belongs to this pair's place.
  PairLoss of(const Pair& pair, double matched_reference) const;

 private:
  void note(const BatchView& batch, size_t group, const SequenceLogp& chosen, const SequenceLogp& rejected, double loss) const;

  std::vector<Term> terms_;
  PreferenceOptions options_;
  bool matched_ = false;  // AOT is among the terms
};

}  // namespace attune::objectives
