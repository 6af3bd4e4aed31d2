#include "ops/rms_norm.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

constexpr float kEps = 1e-2f;  // large enough that a wrong place of eps shows

Doubles reference(const Doubles& x, const Doubles& w, int64_t n, int64_t d) {
  Doubles y(x.size());
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += x[static_cast<size_t>(i * d + j)] * x[static_cast<size_t>(i * d + j)];
    const double r = 1 / std::sqrt(sum / static_cast<double>(d) + static_cast<double>(kEps));
    for (int64_t j = 0; j < d; ++j)
      y[static_cast<size_t>(i * d + j)] = x[static_cast<size_t>(i * d + j)] * r * w[static_cast<size_t>(j)];
  }
  return y;
}

class RmsNorm : public EveryBackend {
 protected:
  struct Result {
    Doubles y, dx, dw;
  };
  Result run(DType dtype, int64_t n, int64_t d, const Doubles& x, const Doubles& w, const Doubles& dy, const Doubles& dx0 = {},
             const Doubles& dw0 = {}) {
    Owned tx(dtype, n, d, x, d + 3), tw(dtype, 1, d, w), ty(dtype, n, d), tdy(dtype, n, d, dy), rstd(DType::f32, 1, std::max<int64_t>(n, 1));
    Owned dx(dtype, n, d, dx0.empty() ? Doubles(x.size()) : dx0), dw(DType::f32, 1, d, dw0.empty() ? Doubles(w.size()) : dw0);
    ops::rms_norm_forward(context, {tx, tw, kEps, ty, rstd});
    ops::rms_norm_backward(context, {tx, tw, rstd, tdy, dx, !dx0.empty(), dw, !dw0.empty(), {}});
    return {ty.doubles(), dx.doubles(), dw.doubles()};
  }
};

TEST_P(RmsNorm, ForwardAndBackward) {
  for (int64_t n : {0, 1, 7, 33})
    for (int64_t d : {1, 7, 33, 129}) {
      SCOPED_TRACE(::testing::Message() << n << "x" << d);
      const Doubles x = rounded(random_doubles(n * d, 1, 0.3), DType::f32), w = rounded(random_doubles(d, 2), DType::f32),
                    dy = rounded(random_doubles(n * d, 3), DType::f32);
      const Result r = run(DType::f32, n, d, x, w, dy);
      EXPECT_LT(error_of(r.y, reference(x, w, n, d)), 1e-5);
      if (n == 0) continue;
      expect_gradient(r.dx, x, [&](const Doubles& p) { return dot(dy, reference(p, w, n, d)); }, 1e-4, 24);
      expect_gradient(r.dw, w, [&](const Doubles& p) { return dot(dy, reference(x, p, n, d)); }, 1e-4, 24);
    }
}

TEST_P(RmsNorm, BackwardAddsWhereItIsAskedTo) {
  const int64_t n = 5, d = 9;
  const Doubles x = random_doubles(n * d, 1), w = random_doubles(d, 2), dy = random_doubles(n * d, 3);
  const Result plain = run(DType::f32, n, d, x, w, dy);
  const Result added = run(DType::f32, n, d, x, w, dy, Doubles(x.size(), 10.0), Doubles(w.size(), 20.0));
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(added.dx[i], plain.dx[i] + 10, 1e-5);
  for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(added.dw[i], plain.dw[i] + 20, 1e-5);
}

TEST_P(RmsNorm, HalfPrecisionIsCloseToFp32) {
  const int64_t n = 33, d = 129;
  for (DType half : {DType::bf16, DType::f16}) {
    const auto round = [half](Doubles v) { return rounded(std::move(v), half); };
    const Doubles x = round(random_doubles(n * d, 1)), w = round(random_doubles(d, 2)), dy = round(random_doubles(n * d, 3));
    const Result wide = run(DType::f32, n, d, x, w, dy), narrow = run(half, n, d, x, w, dy);
    EXPECT_LT(nmse(narrow.y, wide.y), 5e-4);
    EXPECT_LT(nmse(narrow.dx, wide.dx), 5e-4);
    EXPECT_LT(nmse(narrow.dw, wide.dw), 5e-4);
  }
}

TEST_P(RmsNorm, TheSameBitsTwiceWithManyRows) {
  const int64_t n = 700, d = 64;
  const Doubles x = random_doubles(n * d, 1), w = random_doubles(d, 2), dy = random_doubles(n * d, 3);
  const Result a = run(DType::f32, n, d, x, w, dy), b = run(DType::f32, n, d, x, w, dy);
  EXPECT_EQ(a.dw, b.dw);
  EXPECT_EQ(a.dx, b.dx);
}

TEST_P(RmsNorm, HeadsAreNormedOneByOneWithAnOffsetAndInPlace) {
  // Two tokens of three heads are six rows; the weight is stored less 1.
  const int64_t n = 2, heads = 3, d = 5;
  const Doubles x = rounded(random_doubles(n * heads * d, 1), DType::f32), w = rounded(random_doubles(d, 2), DType::f32),
                dy = rounded(random_doubles(n * heads * d, 3), DType::f32);
  Doubles shifted = w;
  for (double& v : shifted) v += 1;
  Owned tx(DType::f32, n, heads * d, x, heads * d + 4), tw(DType::f32, 1, d, w), ty(DType::f32, n, heads * d), tdy(DType::f32, n, heads * d, dy),
      rstd(DType::f32, 1, n * heads), dw(DType::f32, 1, d);
  ops::rms_norm_forward(context, {tx, tw, kEps, ty, rstd, 1.0f});
  EXPECT_LT(error_of(ty.doubles(), reference(x, shifted, n * heads, d)), 1e-5);
  ops::RmsNormBackward back{tx, tw, rstd, tdy, tx, false, dw, false, {}, 1.0f};
  ops::rms_norm_backward(context, back);
  expect_gradient(tx.doubles(), x, [&](const Doubles& p) { return dot(dy, reference(p, shifted, n * heads, d)); }, 1e-4, 30);
  expect_gradient(dw.doubles(), shifted, [&](const Doubles& p) { return dot(dy, reference(x, p, n * heads, d)); }, 1e-4, 30);
}

ATTUNE_EVERY_BACKEND(RmsNorm);

}  // namespace
}  // namespace attune
