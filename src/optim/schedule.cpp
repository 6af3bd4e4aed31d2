#include "optim/schedule.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "util/error.h"

namespace attune::optim {

const std::vector<std::string>& Schedule::names() {
  static const std::vector<std::string> all{"linear", "cosine", "constant", "constant_with_warmup"};
  return all;
}

Schedule::Schedule(const std::string& name, double peak, int64_t warmup_steps, int64_t total_steps)
    : peak_(peak), warmup_(warmup_steps), total_(total_steps) {
  const auto it = std::find(names().begin(), names().end(), name);
  if (it == names().end()) refuse("lr_scheduler_type: \"{}\" is not supported; known are {}", name, fmt::join(names(), ", "));
  kind_ = static_cast<Kind>(it - names().begin());
}

double Schedule::learning_rate(int64_t step) const {
  if (kind_ == Kind::constant) return peak_;
  if (step < warmup_) return peak_ * static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_));
  if (kind_ == Kind::constant_with_warmup) return peak_;
  const double rest = static_cast<double>(std::max<int64_t>(1, total_ - warmup_));
  if (kind_ == Kind::linear) return peak_ * std::max(0.0, static_cast<double>(total_ - step) / rest);
  const double progress = static_cast<double>(step - warmup_) / rest;
  return peak_ * std::max(0.0, 0.5 * (1.0 + std::cos(M_PI * progress)));
}

}  // namespace attune::optim
