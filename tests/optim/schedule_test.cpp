// Learning rates as transformers' get_*_schedule* give them.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "util/error.h"

namespace attune {
namespace {

TEST(Schedule, WarmsUpFromZeroAndReachesThePeakAfterTheLastWarmupStep) {
  for (const char* name : {"linear", "cosine", "constant_with_warmup"}) {
    const optim::Schedule s(name, 0.5f, 4, 20);
    for (int64_t i = 0; i <= 4; ++i) EXPECT_FLOAT_EQ(s.learning_rate(i), 0.5f * static_cast<float>(i) / 4) << name;
  }
}

TEST(Schedule, DecaysToZeroAtTheLastStep) {
  const optim::Schedule linear("linear", 1, 2, 12), cosine("cosine", 1, 2, 12);
  for (int64_t i = 2; i <= 12; ++i) {
    EXPECT_FLOAT_EQ(linear.learning_rate(i), static_cast<float>(12 - i) / 10);
    EXPECT_NEAR(cosine.learning_rate(i), 0.5 * (1 + std::cos(M_PI * static_cast<double>(i - 2) / 10)), 1e-6);
  }
  EXPECT_EQ(linear.learning_rate(30), 0);
}

TEST(Schedule, ConstantsStay) {
  EXPECT_EQ(optim::Schedule("constant", 0.3f, 5, 10).learning_rate(0), 0.3f);
  EXPECT_EQ(optim::Schedule("constant_with_warmup", 0.3f, 5, 10).learning_rate(100), 0.3f);
}

TEST(Schedule, EmptyRunsDivideByNothing) {
  for (const std::string& name : optim::Schedule::names()) EXPECT_TRUE(std::isfinite(optim::Schedule(name, 1, 0, 0).learning_rate(0)));
}

TEST(Schedule, AnUnknownNameIsRefusedWithTheList) {
  try {
    optim::Schedule("sawtooth", 1, 0, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("sawtooth"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("cosine"), std::string::npos);
  }
}

}  // namespace
}  // namespace attune
