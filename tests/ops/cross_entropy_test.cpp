#include "ops/cross_entropy.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class CrossEntropy : public EveryBackend {
 protected:
  static double lse_of(const Doubles& z, size_t row, size_t v) {
    double highest = -INFINITY, sum = 0;
    for (size_t j = 0; j < v; ++j) highest = std::max(highest, z[row * v + j]);
    for (size_t j = 0; j < v; ++j) sum += std::exp(z[row * v + j] - highest);
    return highest + std::log(sum);
  }
};

TEST_P(CrossEntropy, LogProbabilitiesAndTheirGradient) {
  for (int64_t r : {0, 1, 7, 33})
    for (int64_t v : {1, 7, 129, 5000}) {
      SCOPED_TRACE(::testing::Message() << r << "x" << v);
      const Doubles z = rounded(random_doubles(r * v, 1, 4), DType::f32), c = rounded(random_doubles(r, 2), DType::f32);
      std::vector<int32_t> labels;
      for (int64_t i = 0; i < r; ++i) labels.push_back(static_cast<int32_t>(i * 37 % v));
      Owned logits(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), coefficient(DType::f32, 1, r, c);
      ops::token_logprob(context, {logits, vector_of(labels), logp, lse, {}, 0});
      Doubles expected_lse, expected_logp, expected_gradient(z.size());
      for (size_t i = 0; i < static_cast<size_t>(r); ++i) {
        const auto w = static_cast<size_t>(v);
        expected_lse.push_back(lse_of(z, i, w));
        expected_logp.push_back(z[i * w + static_cast<size_t>(labels[i])] - expected_lse.back());
        for (size_t j = 0; j < w; ++j)
          expected_gradient[i * w + j] =
              c[i] * (std::exp(z[i * w + j] - expected_lse.back()) - (j == static_cast<size_t>(labels[i]) ? 1 : 0));
      }
      EXPECT_LT(error_of(lse.doubles(), expected_lse), 1e-6);
      if (v > 1) {
        EXPECT_LT(error_of(logp.doubles(), expected_logp), 1e-6);
      }
      const Tensor gradient = ops::logit_gradient(context, {logits, vector_of(labels), lse, coefficient, DType::f32, 0});
      EXPECT_EQ(gradient.data, logits.tensor.data);
      if (v > 1) {
        EXPECT_LT(error_of(logits.doubles(), expected_gradient), 1e-5);
      } else {
        for (double g : logits.doubles()) EXPECT_NEAR(g, 0, 1e-6);
      }

      // The naive reference is itself held by central differences of −Σ c·logp.
      if (r != 7 || v != 129) continue;
      expect_gradient(expected_gradient, z, [&](const Doubles& p) {
        double loss = 0;
        for (size_t i = 0; i < 7; ++i) loss -= c[i] * (p[i * 129 + static_cast<size_t>(labels[i])] - lse_of(p, i, 129));
        return loss;
      }, 1e-6);
    }
}

TEST_P(CrossEntropy, SlabsOfTheVocabularyGiveWhatWholeRowsGive) {
  constexpr int64_t r = 7, v = 1000, size = 256;
  Doubles z = random_doubles(r * v, 5, 4);
  z[3 * v + 999] = z[3 * v + 5] = 30;  // two words are the likeliest, in different slabs
  for (int64_t j = 0; j < v; ++j) z[static_cast<size_t>(4 * v + j)] = -200 + static_cast<double>(j) * 0.4;  // the highest comes last
  z = rounded(z, DType::f32);
  const Doubles c = rounded(random_doubles(r, 2), DType::f32);
  const std::vector<int32_t> labels{0, 255, 256, 999, 999, 512, 700};
  for (const auto& [smoothing, z_loss, dtype] : {std::tuple{0.0f, 0.0f, DType::f32}, {0.1f, 0.01f, DType::f32}, {0.1f, 0.01f, DType::bf16}}) {
    Owned whole(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), correct(DType::f32, 1, r), coefficient(DType::f32, 1, r, c);
    ops::token_logprob(context, {whole, vector_of(labels), logp, lse, correct, smoothing, z_loss});
    const Tensor expected = ops::logit_gradient(context, {whole, vector_of(labels), lse, coefficient, dtype, smoothing, z_loss});

    Owned state(DType::f32, r, ops::SlabColumn::count), slab_logp(DType::f32, 1, r), slab_lse(DType::f32, 1, r), slab_correct(DType::f32, 1, r);
    const auto for_each_slab = [&](auto&& body) {
      for (int64_t first = 0; first < v; first += size) {
        const int64_t n = std::min(size, v - first);
        Doubles part;
        for (int64_t i = 0; i < r; ++i) part.insert(part.end(), z.begin() + i * v + first, z.begin() + i * v + first + n);
        Owned slab(DType::f32, r, n, part);
        body(slab.tensor, first, n);
      }
    };
    for_each_slab([&](const Tensor& slab, int64_t first, int64_t) { ops::logprob_slab(context, {slab, vector_of(labels), state, first}); });
    ops::finish_logprob(context, {state, v, slab_logp, slab_lse, slab_correct, smoothing, z_loss});
    EXPECT_LT(error_of(slab_logp.doubles(), logp.doubles()), 1e-6);
    EXPECT_LT(error_of(slab_lse.doubles(), lse.doubles()), 1e-6);
    EXPECT_EQ(slab_correct.doubles(), correct.doubles());
    for_each_slab([&](const Tensor& slab, int64_t first, int64_t n) {
      const Tensor g = ops::logit_gradient(context, {slab, vector_of(labels), lse, coefficient, dtype, smoothing, z_loss, state, first, v});
      for (int64_t i = 0; i < r; ++i)
        for (int64_t j = 0; j < n; ++j) {
          if (dtype == DType::f32) ASSERT_EQ(g.row<float>(i)[j], expected.row<float>(i)[first + j]) << i << ", " << first + j;
          else ASSERT_EQ(to_float(g.row<BFloat16>(i)[j]), to_float(expected.row<BFloat16>(i)[first + j])) << i << ", " << first + j;
        }
    });
  }
}

TEST_P(CrossEntropy, GradientsMayCountByTheProbabilityOfTheLabel) {
  constexpr int64_t r = 5, v = 130;
  const Doubles z = rounded(random_doubles(r * v, 5, 2), DType::f32), c = rounded(random_doubles(r, 2), DType::f32);
  const std::vector<int32_t> labels{0, 7, 129, 64, 31};
  Owned logits(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), correct(DType::f32, 1, r), coefficient(DType::f32, 1, r, c);
  ops::token_logprob(context, {logits, vector_of(labels), logp, lse, correct});
  Doubles counted = c;
  for (size_t i = 0; i < counted.size(); ++i) counted[i] *= std::exp(logp.doubles()[i]);
  Owned expected(DType::f32, r, v, z), less(DType::f32, 1, r, counted);
  ops::logit_gradient(context, {expected, vector_of(labels), lse, less});
  ops::logit_gradient(context, {logits, vector_of(labels), lse, coefficient, DType::f32, 0, 0, {}, 0, 0, logp});
  EXPECT_LT(error_of(logits.doubles(), expected.doubles()), 1e-6);
}

TEST_P(CrossEntropy, LabelSmoothingSpreadsTheTargetAndAccuracyCountsTheLikeliestWord) {
  const size_t r = 7, v = 129;
  const double smoothing = 0.1f;
  const Doubles z = rounded(random_doubles(static_cast<int64_t>(r * v), 1, 4), DType::f32), c = rounded(random_doubles(static_cast<int64_t>(r), 2), DType::f32);
  std::vector<int32_t> labels;
  Doubles expected_correct;
  for (size_t i = 0; i < r; ++i) {
    const auto best = std::max_element(z.begin() + static_cast<ptrdiff_t>(i * v), z.begin() + static_cast<ptrdiff_t>((i + 1) * v)) - z.begin() - static_cast<ptrdiff_t>(i * v);
    labels.push_back(static_cast<int32_t>(i % 2 ? best : (best + 5) % 129));
    expected_correct.push_back(i % 2 ? 1 : 0);
  }
  const auto loss = [&](const Doubles& p) {
    double sum = 0;
    for (size_t i = 0; i < r; ++i) {
      double mean = 0;
      for (size_t j = 0; j < v; ++j) mean += p[i * v + j] / static_cast<double>(v);
      sum -= c[i] * ((1 - smoothing) * p[i * v + static_cast<size_t>(labels[i])] + smoothing * mean - lse_of(p, i, v));
    }
    return sum;
  };
  Owned logits(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), correct(DType::f32, 1, r), coefficient(DType::f32, 1, r, c);
  ops::token_logprob(context, {logits, vector_of(labels), logp, lse, correct, static_cast<float>(smoothing)});
  EXPECT_EQ(correct.doubles(), expected_correct);
  double sum = 0;
  for (size_t i = 0; i < r; ++i) sum -= c[i] * logp.doubles()[i];
  EXPECT_NEAR(sum, loss(z), 1e-5 * std::abs(loss(z)));
  ops::logit_gradient(context, {logits, vector_of(labels), lse, coefficient, DType::f32, static_cast<float>(smoothing)});
  Doubles expected;
  for (size_t i = 0; i < r; ++i)
    for (size_t j = 0; j < v; ++j)
      expected.push_back(c[i] * (std::exp(z[i * v + j] - lse_of(z, i, v)) - (j == static_cast<size_t>(labels[i]) ? 1 - smoothing : 0) -
                                 smoothing / static_cast<double>(v)));
  EXPECT_LT(error_of(logits.doubles(), expected), 1e-5);  // every element, the labels among them
  expect_gradient(expected, z, loss, 1e-6);
}

TEST_P(CrossEntropy, ABf16GradientLiesInTheFirstHalfOfEachRow) {
  const int64_t r = 5, v = 1001;
  const Doubles z = rounded(random_doubles(r * v, 1, 4), DType::f32);
  const std::vector<int32_t> labels{0, 1000, 500, 255, 256};
  Owned a(DType::f32, r, v, z), b(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), c(DType::f32, 1, r, Doubles(5, 0.125));
  ops::token_logprob(context, {a, vector_of(labels), logp, lse});
  ops::logit_gradient(context, {a, vector_of(labels), lse, c, DType::f32, 0});
  const Tensor narrow = ops::logit_gradient(context, {b, vector_of(labels), lse, c, DType::bf16, 0});
  const Doubles wide = a.doubles();
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < v; ++j)
      ASSERT_EQ(to_float(narrow.row<BFloat16>(i)[j]), rounded(wide[static_cast<size_t>(i * v + j)], DType::bf16)) << i << " " << j;
}

TEST_P(CrossEntropy, ZLossPullsTheLargestLogit) {
  const int64_t r = 5, v = 129;
  const Doubles z = rounded(random_doubles(r * v, 1, 4), DType::f32), c = rounded(random_doubles(r, 2), DType::f32);
  std::vector<int32_t> labels{0, 1, 2, 3, 4};
  labels[4] = static_cast<int32_t>(std::max_element(z.begin() + 4 * v, z.end()) - (z.begin() + 4 * v));  // label and argmax in one
  const auto loss = [&](const Doubles& p) {
    double sum = 0;
    for (size_t i = 0; i < 5; ++i) {
      const double top = *std::max_element(p.begin() + static_cast<ptrdiff_t>(i) * v, p.begin() + static_cast<ptrdiff_t>(i + 1) * v);
      sum -= c[i] * (p[i * 129 + static_cast<size_t>(labels[i])] - lse_of(p, i, 129) - 0.125 * top * top);
    }
    return sum;
  };
  for (DType dtype : {DType::f32, DType::bf16}) {
    Owned logits(DType::f32, r, v, z), logp(DType::f32, 1, r), lse(DType::f32, 1, r), coefficient(DType::f32, 1, r, c);
    ops::token_logprob(context, {logits, vector_of(labels), logp, lse, {}, 0, 0.125f});
    double sum = 0;
    for (size_t i = 0; i < 5; ++i) sum -= c[i] * logp.doubles()[i];
    EXPECT_NEAR(sum, loss(z), 1e-4);
    const Tensor g = ops::logit_gradient(context, {logits, vector_of(labels), lse, coefficient, dtype, 0, 0.125f});
    Doubles gradient;
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < v; ++j) gradient.push_back(dtype == DType::f32 ? g.row<float>(i)[j] : to_float(g.row<BFloat16>(i)[j]));
    expect_gradient(gradient, z, loss, dtype == DType::f32 ? 1e-5 : 1e-2, r * v);
  }
}

TEST_P(CrossEntropy, FarLogitsNeitherOverflowNorHideNaN) {
  const std::vector<int32_t> labels{0, 1, 0};
  Owned z(DType::f32, 3, 3, {3e4, -3e4, 0, 1e4, 1e4, 1e4, 0, NAN, 0}), logp(DType::f32, 1, 3), lse(DType::f32, 1, 3);
  ops::token_logprob(context, {z, vector_of(labels), logp, lse});
  EXPECT_EQ(logp.doubles()[0], 0);
  EXPECT_NEAR(logp.doubles()[1], -std::log(3.0), 2e-3);
  EXPECT_TRUE(std::isnan(logp.doubles()[2]));
}

ATTUNE_EVERY_BACKEND(CrossEntropy);

}  // namespace
}  // namespace attune
