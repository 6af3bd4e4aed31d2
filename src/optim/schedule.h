// Learning-rate schedules, stepped as transformers and PyTorch do it: the rate for update number `step` (from 0).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace attune::optim {

struct ScheduleOptions {
  std::string name = "linear";
  double peak = 0;
  int64_t warmup_steps = 0, total_steps = 0;
  // lr_scheduler_kwargs, each schedule its own:
  //   cosine                    num_cycles (0.5)
  //   cosine_with_restarts      num_cycles (1)
  //   cosine_with_min_lr        min_lr or min_lr_rate, num_cycles (0.5)
  //   polynomial                lr_end (1e-7), power (1)
  //   inverse_sqrt              timescale (the warm-up, or 10000 without)
  //   warmup_stable_decay       num_decay_steps (a tenth of the run), num_stable_steps (the rest), min_lr_ratio (0),
  //                             warmup_type, decay_type: linear | cosine | 1-sqrt, num_cycles (0.5)
  //   step                      step_size (1), gamma (0.1), per: epoch | step: × gamma after every step_size of them
  std::map<std::string, std::string> arguments;
  std::vector<int64_t> epoch_ends;  // updates done when each epoch ends, for `step` per epoch
};

class Schedule {
 public:
  // Refuses an unknown name or argument with the list of those known.
  explicit Schedule(const ScheduleOptions& options);
  double learning_rate(int64_t step) const;
  static const std::vector<std::string>& names();

 private:
  using Factor = double (*)(const Schedule&, int64_t step);
  struct Kind;
  static const std::vector<Kind>& kinds();

  double number(const std::string& argument, double fallback) const;
  std::string text(const std::string& argument, const std::string& fallback) const;
  double progress(int64_t step) const;  // behind the warm-up, 0 to 1

  ScheduleOptions options_;
  std::map<std::string, double> numbers_;
  const Kind* kind_;
};

}  // namespace attune::optim
