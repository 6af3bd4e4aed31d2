// Which evaluation was the best so far, and when more of them make no sense.
#pragma once

#include <memory>

#include "train/config.h"
#include "util/json.h"

namespace attune::train {

class BestModel {
 public:
  explicit BestModel(const Config& config);
  ~BestModel();

  // Refuses a metric_for_best_model that is not among `known`: before the run, not at its first evaluation.
  void check(const std::vector<std::string>& known) const;
  // Takes the metrics of the evaluation after update `step`; true when none before was better.
  bool update(const Json& metrics, int64_t step);
  // early_stopping_patience evaluations in a row were no better.
  bool exhausted() const;

  int64_t step() const { return step_; }  // 0: nothing evaluated yet
  double metric() const { return metric_; }
  const Json& metrics() const { return *metrics_; }  // of the best evaluation
  const std::string& name() const { return name_; }  // "eval_loss"

  // For checkpoints.
  Json state() const;
  void restore(const Json& state);

 private:
  std::string name_;
  bool larger_;
  int64_t patience_;
  double threshold_;
  int64_t step_ = 0, without_gain_ = 0;
  double metric_ = 0;
  std::unique_ptr<Json> metrics_;
};

}  // namespace attune::train
