#include "op_test.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace attune {
namespace {

using namespace test;

class Rope : public EveryBackend {
 protected:
  static constexpr int64_t kPositions = 40;
  static Doubles table(int64_t d) {
    Doubles t(static_cast<size_t>(kPositions * d));
    for (int64_t p = 0; p < kPositions; ++p)
      for (int64_t i = 0; i < d / 2; ++i) {
        const double angle = static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
        t[static_cast<size_t>(p * d + i)] = std::cos(angle);
        t[static_cast<size_t>(p * d + i + d / 2)] = std::sin(angle);
      }
    return t;
  }
  // As Hugging Face writes it: x·cos + rotate_half(x)·sin.
  static Doubles reference(const Doubles& x, const std::vector<int32_t>& positions, int64_t heads, int64_t d) {
    Doubles y(x.size());
    const Doubles t = table(d);
    for (size_t n = 0; n < positions.size(); ++n)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < d; ++i) {
          const size_t base = n * static_cast<size_t>(heads * d) + static_cast<size_t>(h * d);
          const int64_t pair = i % (d / 2), half = d / 2;
          const double c = t[static_cast<size_t>(positions[n] * d + pair)], s = t[static_cast<size_t>(positions[n] * d + pair + half)];
          const double turned = i < half ? -x[base + static_cast<size_t>(i + half)] : x[base + static_cast<size_t>(i - half)];
          y[base + static_cast<size_t>(i)] = x[base + static_cast<size_t>(i)] * c + turned * s;
        }
    return y;
  }
  Doubles run(DType dtype, const Doubles& x, const std::vector<int32_t>& positions, int64_t heads, int64_t d, bool backward) {
    Owned tx(dtype, static_cast<int64_t>(positions.size()), heads * d, x, heads * d + 7), tt(DType::f32, kPositions, d, table(d));
    ops::rope(context, {tx, vector_of(positions), tt, heads, backward});
    return tx.doubles();
  }
};

TEST_P(Rope, ForwardAndBackwardOnAColumnSlice) {
  for (int64_t heads : {1, 3})
    for (int64_t d : {2, 8, 34}) {
      const std::vector<int32_t> positions{0, 1, 2, 39, 0, 7, 3};
      const Doubles x = rounded(random_doubles(7 * heads * d, 1), DType::f32), dy = rounded(random_doubles(7 * heads * d, 2), DType::f32);
      EXPECT_LT(error_of(run(DType::f32, x, positions, heads, d, false), reference(x, positions, heads, d)), 1e-5);
      expect_gradient(run(DType::f32, dy, positions, heads, d, true), x,
                      [&](const Doubles& p) { return dot(dy, reference(p, positions, heads, d)); }, 1e-4, 32);
    }
}

TEST_P(Rope, Bf16IsCloseToFp32AndNoRowsAreFine) {
  const std::vector<int32_t> positions{5, 6, 7};
  const Doubles x = rounded(random_doubles(3 * 64, 1), DType::bf16);
  EXPECT_LT(nmse(run(DType::bf16, x, positions, 2, 32, false), reference(x, positions, 2, 32)), 5e-4);
  EXPECT_TRUE(run(DType::f32, {}, {}, 2, 32, false).empty());
}

TEST_P(Rope, TurnsThePartThatTheTableCoversAndTakesRowsInOrderWithoutPositions) {
  const Doubles x = rounded(random_doubles(3 * 2 * 12, 1), DType::f32);
  Owned tx(DType::f32, 3, 24, x), tt(DType::f32, kPositions, 8, table(8));
  ops::rope(context, {tx, {}, tt, 2, false});
  Doubles turned, expected_in;
  for (int64_t i = 0; i < 3 * 2; ++i)
    for (int64_t j = 0; j < 12; ++j) {
      const auto at = static_cast<size_t>(i * 12 + j);
      if (j < 8) {
        turned.push_back(tx.doubles()[at]);
        expected_in.push_back(x[at]);
      } else {
        EXPECT_EQ(tx.doubles()[at], x[at]);
      }
    }
  EXPECT_LT(error_of(turned, reference(expected_in, {0, 1, 2}, 2, 8)), 1e-5);
}

TEST_P(Rope, ATableByTokenFollowsTheLengthOfEachSequence) {
  const std::vector<float> frequency{1.0f, 0.1f, 0.01f}, far{0.5f, 0.05f, 0.001f};
  const std::vector<int32_t> cu{0, 4, 4, 11};
  for (bool listed : {false, true}) {
    Owned out(DType::f32, 11, 6);
    ops::rope_table(context, {out, vector_of(cu), frequency.data(), listed ? far.data() : nullptr, 5, 100.0, 3.0, 1.5f});
    const Doubles values = out.doubles();
    for (size_t n = 0; n < 11; ++n)
      for (size_t i = 0; i < 3; ++i) {
        const double position = n < 4 ? static_cast<double>(n) : static_cast<double>(n - 4);
        const double base = 100.0 * std::pow(3.0 * 7 / 5 - 2, 6.0 / 4);  // seven tokens, made for five
        const double f = n < 4 ? frequency[i] : listed ? far[i] : std::pow(base, -2.0 * static_cast<double>(i) / 6);
        EXPECT_NEAR(values[n * 6 + i], 1.5 * std::cos(position * f), 1e-5) << n << " " << i;
        EXPECT_NEAR(values[n * 6 + 3 + i], 1.5 * std::sin(position * f), 1e-5) << n << " " << i;
      }
  }
}

class Swiglu : public EveryBackend {
 protected:
  static Doubles reference(const Doubles& x, int64_t n, int64_t f) {
    Doubles y;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < f; ++j) {
        const double g = x[static_cast<size_t>(i * 2 * f + j)], u = x[static_cast<size_t>(i * 2 * f + f + j)];
        y.push_back(g / (1 + std::exp(-g)) * u);
      }
    return y;
  }
};

TEST_P(Swiglu, ForwardAndBackwardInPlace) {
  for (int64_t n : {0, 1, 7, 33})
    for (int64_t f : {1, 7, 33, 129}) {
      Doubles x = rounded(random_doubles(n * 2 * f, 1, 3), DType::f32);
      if (!x.empty()) x[0] = -120;  // eˣ of far numbers must not overflow
      const Doubles dy = rounded(random_doubles(n * f, 2), DType::f32);
      Owned tx(DType::f32, n, 2 * f, x), ty(DType::f32, n, f), tdy(DType::f32, n, f, dy), dx(DType::f32, n, 2 * f);
      ops::swiglu_forward(context, {tx, ty});
      EXPECT_LT(error_of(ty.doubles(), reference(x, n, f)), 1e-5);
      ops::swiglu_backward(context, {tx, tdy, dx});
      expect_gradient(dx.doubles(), x, [&](const Doubles& p) { return dot(dy, reference(p, n, f)); }, 1e-4, 24);
      ops::swiglu_backward(context, {tx, tdy, tx});
      EXPECT_EQ(tx.doubles(), dx.doubles());
    }
}

TEST_P(Swiglu, GeluTanh) {
  const int64_t n = 7, f = 33;
  Doubles x = rounded(random_doubles(n * 2 * f, 1, 3), DType::f32);
  x[0] = -120, x[1] = 120, x[2] = 1e-6, x[3] = 0;
  const Doubles dy = rounded(random_doubles(n * f, 2), DType::f32);
  const auto geglu = [&](const Doubles& v) {
    Doubles y;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < f; ++j) {
        const double g = v[static_cast<size_t>(i * 2 * f + j)], u = v[static_cast<size_t>(i * 2 * f + f + j)];
        y.push_back(0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u);
      }
    return y;
  };
  Owned tx(DType::f32, n, 2 * f, x), ty(DType::f32, n, f), tdy(DType::f32, n, f, dy);
  ops::swiglu_forward(context, {tx, ty, ops::GateActivation::gelu_tanh});
  EXPECT_LT(error_of(ty.doubles(), geglu(x)), 1e-6);
  ops::swiglu_backward(context, {tx, tdy, tx, ops::GateActivation::gelu_tanh});
  expect_gradient(tx.doubles(), x, [&](const Doubles& p) { return dot(dy, geglu(p)); }, 1e-4, 40);
}

TEST_P(Swiglu, Bf16IsCloseToFp32) {
  const int64_t n = 33, f = 129;
  const Doubles x = rounded(random_doubles(n * 2 * f, 1), DType::bf16), dy = rounded(random_doubles(n * f, 2), DType::bf16);
  Owned fx(DType::f32, n, 2 * f, x), bx(DType::bf16, n, 2 * f, x), fdy(DType::f32, n, f, dy), bdy(DType::bf16, n, f, dy), by(DType::bf16, n, f);
  ops::swiglu_forward(context, {bx, by});
  EXPECT_LT(nmse(by.doubles(), reference(x, n, f)), 5e-4);
  ops::swiglu_backward(context, {fx, fdy, fx});
  ops::swiglu_backward(context, {bx, bdy, bx});
  EXPECT_LT(nmse(bx.doubles(), fx.doubles()), 5e-4);
}

ATTUNE_EVERY_BACKEND(Rope);
ATTUNE_EVERY_BACKEND(Swiglu);

}  // namespace
}  // namespace attune
