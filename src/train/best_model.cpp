#include "train/best_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune::train {

BestModel::BestModel(const Config& c)
    : name_(c.metric_for_best_model.starts_with("eval_") ? c.metric_for_best_model : "eval_" + c.metric_for_best_model),
      larger_(c.larger_is_better()), patience_(c.early_stopping_patience), threshold_(c.early_stopping_threshold),
      metrics_(std::make_unique<Json>(Json::object())) {}

BestModel::~BestModel() = default;

void BestModel::check(const std::vector<std::string>& known) const {
  if (std::find(known.begin(), known.end(), name_) == known.end())
    refuse("metric_for_best_model: the evaluation gives no \"{}\"; it gives {}", name_, fmt::join(known, ", "));
}

bool BestModel::update(const Json& metrics, int64_t step) {
  if (!metrics.contains(name_) || !metrics[name_].is_number())
    fail("metric_for_best_model: this evaluation gave no \"{}\": nothing in the validation data is what it is a mean of (good answers, bad answers). Choose another metric, or other "
         "validation data", name_);
  const double value = metrics[name_].get<double>();
  const bool first = step_ == 0;
  const bool better = first || (larger_ ? value > metric_ : value < metric_);
  // As transformers: the patience asks for a gain above the threshold, the best is simply the best.
  without_gain_ = first || (better && std::abs(value - metric_) > threshold_) ? 0 : without_gain_ + 1;
  if (!better) return false;
  step_ = step;
  metric_ = value;
  *metrics_ = metrics;
  return true;
}

bool BestModel::exhausted() const { return patience_ > 0 && without_gain_ >= patience_; }

Json BestModel::state() const {
  return {{"name", name_}, {"step", step_}, {"metric", metric_}, {"without_gain", without_gain_}, {"metrics", *metrics_}};
}

void BestModel::restore(const Json& state) {
  // A run that resumes with another metric begins to compare anew.
  if (state.value("name", std::string()) != name_) return;
  step_ = state.at("step").get<int64_t>();
  metric_ = state.at("metric").get<double>();
  without_gain_ = state.at("without_gain").get<int64_t>();
  *metrics_ = state.at("metrics");
}

}  // namespace attune::train
