// Which evaluation is the best, and when patience is at its end, as numbers alone.
#include "train/best_model.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/errors.h"

namespace attune::train {
namespace {

Config config(int64_t patience, double threshold = 0, const std::string& metric = "loss") {
  Config c;
  c.early_stopping_patience = patience;
  c.early_stopping_threshold = threshold;
  c.metric_for_best_model = metric;
  return c;
}

// The step at which patience ends, or 0; the best step is checked on the way.
int64_t exhausted_at(BestModel& best, const std::vector<double>& values, const std::string& name = "eval_loss") {
  for (size_t i = 0; i < values.size(); ++i) {
    best.update({{name, values[i]}}, static_cast<int64_t>(i) + 1);
    if (best.exhausted()) return static_cast<int64_t>(i) + 1;
  }
  return 0;
}

TEST(BestModel, PatienceBeginsAnewWithEveryGain) {
  BestModel best(config(3));
  EXPECT_EQ(exhausted_at(best, {5, 6, 6, 4, 6, 6, 3, 4, 4, 4, 1}), 10);
  EXPECT_EQ(best.step(), 7);
  EXPECT_EQ(best.metric(), 3);
  BestModel never(config(0));
  EXPECT_EQ(exhausted_at(never, {1, 2, 3, 4, 5, 6}), 0);
}

TEST(BestModel, AGainBelowTheThresholdIsTheBestButCostsPatience) {
  BestModel best(config(2, 0.5));
  EXPECT_EQ(exhausted_at(best, {5, 4, 3.9, 3.8, 3}), 4);
  EXPECT_EQ(best.step(), 4);
}

TEST(BestModel, LargerIsBetterForAccuracyOrWhereAskedFor) {
  BestModel accuracy(config(0, 0, "eval_accuracy"));
  exhausted_at(accuracy, {0.1, 0.5, 0.3}, "eval_accuracy");
  EXPECT_EQ(accuracy.step(), 2);
  Config c = config(0);
  c.greater_is_better = true;
  BestModel asked(c);
  exhausted_at(asked, {1, 3, 2});
  EXPECT_EQ(asked.step(), 2);
}

TEST(BestModel, AMetricThatAnEvaluationDoesNotGiveIsNamed) {
  BestModel best(config(0, 0, "rewards/chosen"));
  EXPECT_NE(test::error_of([&] { best.update({{"eval_loss", 1.0}}, 1); }).find("gave no \"eval_rewards/chosen\""), std::string::npos);
}

TEST(BestModel, StateGoesOnWhereItStood) {
  BestModel first(config(3)), second(config(3)), other(config(3, 0, "accuracy"));
  exhausted_at(first, {5, 4, 6, 6});
  second.restore(first.state());
  EXPECT_EQ(second.step(), 2);
  EXPECT_FALSE(second.exhausted());
  second.update({{"eval_loss", 7}}, 5);
  EXPECT_TRUE(second.exhausted());
  other.restore(first.state());  // another metric begins to compare anew
  EXPECT_EQ(other.step(), 0);
}

}  // namespace
}  // namespace attune::train
