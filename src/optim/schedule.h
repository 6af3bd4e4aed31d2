// Learning-rate schedules, stepped as transformers does it: the factor for update number `step` (from 0).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune::optim {

class Schedule {
 public:
  // `name`: linear, cosine, constant, constant_with_warmup.
  Schedule(const std::string& name, double peak, int64_t warmup_steps, int64_t total_steps);
  double learning_rate(int64_t step) const;
  static const std::vector<std::string>& names();

 private:
  enum class Kind { linear, cosine, constant, constant_with_warmup } kind_;
  double peak_;
  int64_t warmup_, total_;
};

}  // namespace attune::optim
