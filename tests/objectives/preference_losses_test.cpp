// Preference losses as functions of four numbers: slopes against differences, values against the papers' formulae.
#include "objectives/preference_losses.h"

#include <gtest/gtest.h>

#include <cmath>

namespace attune {
namespace {

using objectives::Pair;
using objectives::PreferenceOptions;

const std::vector<Pair>& pairs() {
  static const std::vector<Pair> all{{-30, -42, -33, -40, 12, 15}, {-25, -9, -24, -11.5, 8, 3}, {-3, -2.5, -30, -1, 2, 4}, {-400, -900, -380, -700, 120, 333}};
  return all;
}

class Losses : public ::testing::TestWithParam<const char*> {};

TEST_P(Losses, SlopesAreThoseOfTheLoss) {
  const auto* loss = objectives::find_preference_loss(GetParam());
  ASSERT_NE(loss, nullptr);
  PreferenceOptions o;
  o.label_smoothing = 0.1;
  for (const Pair& pair : pairs()) {
    const auto at = [&](double chosen, double rejected) {
      Pair p = pair;
      p.chosen += chosen, p.rejected += rejected;
      return loss->of(p, o).loss;
    };
    const double h = 1e-5;
    const auto l = loss->of(pair, o);
    const double c = (at(h, 0) - at(-h, 0)) / (2 * h), r = (at(0, h) - at(0, -h)) / (2 * h);
    EXPECT_NEAR(l.d_chosen, c, 1e-6 * (1 + std::abs(c))) << pair.chosen;
    EXPECT_NEAR(l.d_rejected, r, 1e-6 * (1 + std::abs(r))) << pair.chosen;
  }
}

// Far from the middle nothing overflows, and where a loss compares, the better answer has the smaller one.
TEST_P(Losses, AreFiniteAtAnyDistance) {
  const auto* loss = objectives::find_preference_loss(GetParam());
  PreferenceOptions o;
  o.label_smoothing = 0.1;
  for (double d : {-20000.0, -2000.0, -50.0, 0.0, 50.0, 2000.0}) {
    const auto l = loss->of({-2500 + d, -2500, -2500, -2500, 100, 100}, o);
    EXPECT_TRUE(std::isfinite(l.loss)) << d;
    EXPECT_TRUE(std::isfinite(l.d_chosen) && std::isfinite(l.d_rejected)) << d;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Losses, ::testing::Values("sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
                                                        "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft", "orpo", "simpo", "cpo"));

TEST(Losses, EveryOneIsListedAbove) { EXPECT_EQ(objectives::preference_losses().size(), 17u); }

// Values by hand from the papers' formulae, in double precision.
TEST(Losses, FollowTheirFormulae) {
  const auto value = [](const char* name, const Pair& p, const PreferenceOptions& o) { return objectives::find_preference_loss(name)->of(p, o).loss; };
  const Pair p{-10, -12, -11, -11.5, 5, 4};  // log-ratios 1 and −0.5
  PreferenceOptions o;
  o.beta = 0.5;
  const auto ls = [](double x) { return -std::log1p(std::exp(-x)); };
  EXPECT_NEAR(value("sigmoid", p, o), -ls(0.75), 1e-12);
  EXPECT_NEAR(value("hinge", p, o), 0.25, 1e-12);
  EXPECT_NEAR(value("ipo", p, o), std::pow(1.0 / 5 + 0.5 / 4 - 1, 2), 1e-12);
  EXPECT_NEAR(value("sppo_hard", p, o), 0 + 0.25, 1e-12);
  EXPECT_NEAR(value("simpo", p, o), -ls(0.5 * (-2 + 3) - 0.5), 1e-12);
  EXPECT_NEAR(value("cpo", p, o), -ls(1.0) + 2, 1e-12);
  const double odds = (-2 - std::log(1 - std::exp(-2))) - (-3 - std::log(1 - std::exp(-3)));
  EXPECT_NEAR(value("orpo", p, o), 2 - 0.5 * ls(odds), 1e-12);
}

}  // namespace
}  // namespace attune
