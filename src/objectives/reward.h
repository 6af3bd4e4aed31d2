// A reward model on pairs (Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155): the chosen answer of a group
// should score above the rejected one.
//
//   loss = −log σ(r_chosen − r_rejected − margin) + center·(r_chosen + r_rejected)²
#pragma once

#include "objectives/objective.h"

namespace attune::objectives {

class Reward : public Objective {
 public:
  // `center` keeps rewards near 0 (Eisenstein et al. 2023, arXiv:2312.09244).
  explicit Reward(double center = 0) : center_(center) {}
  Normaliser normaliser() const override { return Normaliser::groups; }
  std::vector<std::string> measure_names() const override;
  double run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override;

 private:
  double center_;
};

}  // namespace attune::objectives
