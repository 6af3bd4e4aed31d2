#include "ops/logit_transforms.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class LogitTransforms : public EveryBackend {};

// Logits of rows of length 1, and Σ dz·z as a function of the rows.
Doubles normed(const Doubles& x, const Doubles& w, int64_t rows, int64_t vocab, int64_t d) {
  Doubles z;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < vocab; ++v) {
      double dot = 0, norm = 0;
      for (int64_t j = 0; j < d; ++j) {
        dot += x[static_cast<size_t>(r * d + j)] * w[static_cast<size_t>(v * d + j)];
        norm += w[static_cast<size_t>(v * d + j)] * w[static_cast<size_t>(v * d + j)];
      }
      z.push_back(dot / std::sqrt(norm));
    }
  return z;
}

TEST_P(LogitTransforms, NormHeadForwardAndGradientOfTheRows) {
  const int64_t rows = 7, vocab = 33, d = 9;
  const Doubles x = rounded(random_doubles(rows * d, 1), DType::f32), w = rounded(random_doubles(vocab * d, 2), DType::f32),
                dz = rounded(random_doubles(rows * vocab, 3), DType::f32);
  Owned tw(DType::f32, vocab, d, w), inverse(DType::f32, 1, vocab);
  ops::inverse_row_norms(context, {tw, inverse});
  Doubles plain(static_cast<size_t>(rows * vocab)), summed(static_cast<size_t>(vocab * d));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < vocab; ++v)
      for (int64_t j = 0; j < d; ++j) {
        const auto zi = static_cast<size_t>(r * vocab + v), wi = static_cast<size_t>(v * d + j), xi = static_cast<size_t>(r * d + j);
        plain[zi] += x[xi] * w[wi];
        summed[wi] += dz[zi] * inverse.doubles()[static_cast<size_t>(v)] * x[xi];
      }
  Owned z(DType::f32, rows, vocab, plain, vocab + 2), g(DType::f32, vocab, d, summed);
  ops::scale_columns(context, {z, inverse});
  EXPECT_LT(error_of(z.doubles(), normed(x, w, rows, vocab, d)), 1e-5);
  ops::project_rows(context, {tw, inverse, g});
  expect_gradient(g.doubles(), w, [&](const Doubles& p) { return dot(dz, normed(x, p, rows, vocab, d)); }, 1e-4, 60);
  const Doubles once = g.doubles();
  ops::project_rows(context, {tw, inverse, g});
  EXPECT_LT(error_of(g.doubles(), once), 1e-6) << "a projection done twice is done once";
}

TEST_P(LogitTransforms, ARowOfZerosGivesNoNaN) {
  Owned w(DType::f32, 1, 3, {0, 0, 0}), inverse(DType::f32, 1, 1), g(DType::f32, 1, 3, {1, 2, 3});
  ops::inverse_row_norms(context, {w, inverse});
  ops::project_rows(context, {w, inverse, g});
  for (double v : g.doubles()) EXPECT_TRUE(std::isfinite(v));
}

TEST_P(LogitTransforms, SoftcapForwardAndBackward) {
  const int64_t rows = 5, vocab = 129;
  Doubles z = rounded(random_doubles(rows * vocab, 1, 3), DType::f32);
  z[0] = 1e4, z[1] = -1e4, z[2] = 1e-5, z[3] = 0.39, z[4] = 0.41;
  const Doubles dz = rounded(random_doubles(rows * vocab, 2), DType::f32);
  const auto capped = [](const Doubles& v) {
    Doubles y;
    for (double x : v) y.push_back(2.0 * std::tanh(x / 2.0));
    return y;
  };
  Owned t(DType::f32, rows, vocab, z), kept(DType::f32, rows, vocab), g(DType::f32, rows, vocab, dz);
  ops::softcap(context, {t, 2.0f, kept});
  const Doubles expected = capped(z);
  for (size_t i = 0; i < z.size(); ++i) EXPECT_NEAR(t.doubles()[i], expected[i], 1e-6 * std::max(1e-3, std::abs(expected[i]))) << z[i];
  EXPECT_EQ(kept.doubles(), t.doubles());
  ops::softcap_backward(context, {kept, g, 2.0f});
  expect_gradient(g.doubles(), z, [&](const Doubles& p) { return dot(dz, capped(p)); }, 1e-4, 60);
}

ATTUNE_EVERY_BACKEND(LogitTransforms);

}  // namespace
}  // namespace attune
