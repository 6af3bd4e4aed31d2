// fp16's range ends at 6e-8 and 65504: the loss is scaled up so that small gradients survive, and the scale adapts
// (torch.amp.GradScaler's rule: halve and skip the update on overflow, double after 2000 good ones).
#pragma once

#include <cstdint>

namespace attune::train {

struct LossScaler {
  double scale = 1;  // 1: off
  int64_t good_steps = 0;
  int64_t skipped = 0;

  static constexpr double kFirst = 65536, kLeast = 1.0 / 16, kMost = 16777216;
  static constexpr int64_t kGrowthInterval = 2000;

  void good() {
    if (++good_steps < kGrowthInterval) return;
    good_steps = 0;
    if (scale < kMost) scale *= 2;
  }
  void overflow() {
    scale /= 2;
    good_steps = 0;
    ++skipped;
  }
};

}  // namespace attune::train
