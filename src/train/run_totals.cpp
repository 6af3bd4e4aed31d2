#include "train/run_totals.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace attune::train {

void RunTotals::add(const StepResult& result, int64_t step_tokens, double step_flops) {
  ++updates, ++window_updates;
  tokens += step_tokens;
  flops += step_flops;
  loss += result.loss, window_loss += result.loss;
  window_labels += result.labels, window_correct += result.correct;
}

void RunTotals::begin_window() {
  window_loss = 0;
  window_updates = window_labels = window_correct = 0;
}

double RunTotals::mean_loss() const { return loss / static_cast<double>(std::max<int64_t>(1, updates)); }

double RunTotals::window_accuracy() const {
  return window_labels > 0 ? static_cast<double>(window_correct) / static_cast<double>(window_labels) : NAN;
}

Json RunTotals::state() const {
  return {{"step", updates}, {"tokens_seen", tokens}, {"flops", flops}, {"loss_sum", loss}, {"window_loss", window_loss},
          {"window_steps", window_updates}, {"window_labels", window_labels}, {"window_correct", window_correct}};
}

void RunTotals::restore(const Json& state) {
  updates = state.at("step").get<int64_t>();
  tokens = state.at("tokens_seen").get<int64_t>();
  flops = state.at("flops").get<double>();
  loss = state.at("loss_sum").get<double>();
  window_loss = state.at("window_loss").get<double>();
  window_updates = state.at("window_steps").get<int64_t>();
  if (!state.contains("window_labels")) return;  // of an earlier version
  window_labels = state["window_labels"].get<int64_t>();
  window_correct = state["window_correct"].get<int64_t>();
}

}  // namespace attune::train
