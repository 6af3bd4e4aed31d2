// What a run has done so far, over all its processes: part of every checkpoint.
#pragma once

#include "train/engine.h"
#include "util/json.h"

namespace attune::train {

struct RunTotals {
  int64_t updates = 0;
  int64_t tokens = 0;
  double flops = 0;
  double loss = 0;  // sum over updates
  // Of the updates since the log's last line.
  double window_loss = 0;
  int64_t window_updates = 0, window_labels = 0, window_correct = 0;

  void add(const StepResult& result, int64_t step_tokens, double step_flops);
  void begin_window();
  double mean_loss() const;
  double window_mean_loss() const { return window_loss / static_cast<double>(window_updates); }
  double window_accuracy() const;  // NaN where the loss is not one of tokens

  // The keys of attune_state.json.
  Json state() const;
  void restore(const Json& state);
};

}  // namespace attune::train
