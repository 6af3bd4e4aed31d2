// Learning rates as transformers' get_*_schedule* give them.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "util/error.h"

namespace attune {
namespace {

optim::Schedule make(const std::string& name, double peak, int64_t warmup, int64_t total) {
  return optim::Schedule({name, peak, warmup, total, {}, {}});
}

TEST(Schedule, WarmsUpFromZeroAndReachesThePeakAfterTheLastWarmupStep) {
  for (const char* name : {"linear", "cosine", "constant_with_warmup"}) {
    const optim::Schedule s = make(name, 0.5f, 4, 20);
    for (int64_t i = 0; i <= 4; ++i) EXPECT_FLOAT_EQ(s.learning_rate(i), 0.5f * static_cast<float>(i) / 4) << name;
  }
}

TEST(Schedule, DecaysToZeroAtTheLastStep) {
  const optim::Schedule linear = make("linear", 1, 2, 12), cosine = make("cosine", 1, 2, 12);
  for (int64_t i = 2; i <= 12; ++i) {
    EXPECT_FLOAT_EQ(linear.learning_rate(i), static_cast<float>(12 - i) / 10);
    EXPECT_NEAR(cosine.learning_rate(i), 0.5 * (1 + std::cos(M_PI * static_cast<double>(i - 2) / 10)), 1e-6);
  }
  EXPECT_EQ(linear.learning_rate(30), 0);
}

TEST(Schedule, ConstantsStay) {
  EXPECT_EQ(make("constant", 0.3f, 5, 10).learning_rate(0), 0.3f);
  EXPECT_EQ(make("constant_with_warmup", 0.3f, 5, 10).learning_rate(100), 0.3f);
}

TEST(Schedule, EmptyRunsDivideByNothing) {
  for (const std::string& name : optim::Schedule::names()) EXPECT_TRUE(std::isfinite(make(name, 1, 0, 0).learning_rate(0)));
}

TEST(Schedule, AnUnknownNameIsRefusedWithTheList) {
  try {
    make("sawtooth", 1, 0, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("sawtooth"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("cosine"), std::string::npos);
  }
}

TEST(Schedule, ArgumentsAreChecked) {
  const auto refused = [](const std::string& name, const std::string& argument, const std::string& value) {
    try {
      optim::Schedule({name, 1, 0, 10, {{argument, value}}, {}});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(refused("cosine", "cycles", "2").find("num_cycles"), std::string::npos);
  EXPECT_NE(refused("linear", "num_cycles", "2").find("no arguments"), std::string::npos);
  EXPECT_NE(refused("step", "gamma", "a tenth").find("number"), std::string::npos);
  EXPECT_NE(refused("step", "per", "week").find("epoch"), std::string::npos);
  EXPECT_NE(refused("step", "step_size", "0"), "");
  EXPECT_NE(refused("polynomial", "lr_end", "2"), "");
  EXPECT_EQ(refused("warmup_stable_decay", "decay_type", "1-sqrt"), "");
  // A rate that is no number would destroy the weights; a count of updates must be one.
  EXPECT_NE(refused("cosine", "num_cycles", "1e308"), "");
  EXPECT_NE(refused("warmup_stable_decay", "num_decay_steps", "1e300"), "");
  EXPECT_THROW(optim::Schedule({"cosine_with_min_lr", 1, 0, 10, {{"min_lr", "0.1"}, {"min_lr_rate", "0.1"}}, {}}), Error);
}

}  // namespace
}  // namespace attune
