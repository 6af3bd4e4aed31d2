// The matrix product in its three roles, in every mixture of dtypes, against a naive double-precision product.
#include "ops/gemm.h"

#include <omp.h>

#include "op_test.h"
#include "ops/blas/onednn.h"
#include "ops/blas/provider.h"

namespace attune {
namespace {

using namespace test;

struct Case {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  DType a = DType::f32, b = DType::f32, c = DType::f32;
  bool strided = false;
};

Doubles reference(const Case& t, const Doubles& a, const Doubles& b, Doubles c) {
  for (int64_t i = 0; i < t.m; ++i)
    for (int64_t j = 0; j < t.n; ++j) {
      double sum = t.accumulate ? c[static_cast<size_t>(i * t.n + j)] : 0;
      for (int64_t l = 0; l < t.k; ++l)
        sum += a[static_cast<size_t>(t.transpose_a ? l * t.m + i : i * t.k + l)] *
               b[static_cast<size_t>(t.transpose_b ? j * t.k + l : l * t.n + j)];
      c[static_cast<size_t>(i * t.n + j)] = sum;
    }
  return c;
}

class Gemm : public EveryBackend {
 protected:
  void check(const Case& t) {
    SCOPED_TRACE(::testing::Message() << t.m << "x" << t.n << "x" << t.k << " ta" << t.transpose_a << " tb" << t.transpose_b
                                      << " acc" << t.accumulate << " dtypes " << name_of(t.a) << name_of(t.b) << name_of(t.c));
    const Doubles a = rounded(random_doubles(t.m * t.k, 1), t.a), b = rounded(random_doubles(t.n * t.k, 2), t.b),
                  c = rounded(random_doubles(t.m * t.n, 3), t.c);
    const auto stride = [&](int64_t cols) { return t.strided ? cols + 5 : 0; };
    const int64_t a_rows = t.transpose_a ? t.k : t.m, a_cols = t.transpose_a ? t.m : t.k;
    const int64_t b_rows = t.transpose_b ? t.n : t.k, b_cols = t.transpose_b ? t.k : t.n;
    Owned ta(t.a, a_rows, a_cols, a, stride(a_cols)), tb(t.b, b_rows, b_cols, b, stride(b_cols)),
        tc(t.c, t.m, t.n, c, stride(t.n));
    ops::gemm(context, {ta, tb, tc, t.transpose_a, t.transpose_b, t.accumulate});
    const Doubles expected = reference(t, a, b, c);
    EXPECT_LT(error_of(tc.doubles(), expected), t.c == DType::bf16 ? 8e-3 : t.c == DType::f16 ? 1e-3 : 2e-5);
    EXPECT_LT(nmse(tc.doubles(), expected), t.c == DType::bf16 ? 5e-4 : t.c == DType::f16 ? 1e-6 : 1e-9);
    EXPECT_EQ(arena.used(), 0u);
  }
};

const std::vector<std::array<int64_t, 3>> kShapes{{1, 1, 1},   {1, 33, 7},   {7, 33, 129}, {33, 129, 1},
                                                  {129, 1, 7}, {33, 33, 33}, {129, 7, 33}, {0, 7, 3}, {7, 0, 3}, {7, 3, 0}};
const std::vector<std::array<bool, 2>> kRoles{{false, true}, {false, false}, {true, false}};  // forward, dX, dW

TEST_P(Gemm, EveryRoleAndShapeInFp32) {
  for (auto [m, n, k] : kShapes)
    for (auto [ta, tb] : kRoles)
      for (bool accumulate : {false, true}) check({m, n, k, ta, tb, accumulate});
}

TEST_P(Gemm, EveryRoleAndShapeInBf16WithBothOutputs) {
  for (auto [m, n, k] : kShapes)
    for (auto [ta, tb] : kRoles)
      for (bool accumulate : {false, true})
        for (DType c : {DType::f32, DType::bf16}) check({m, n, k, ta, tb, accumulate, DType::bf16, DType::bf16, c});
}

TEST_P(Gemm, MixedOperands) {
  for (auto [ta, tb] : kRoles)
    for (DType a : {DType::f32, DType::bf16, DType::f16})
      for (DType b : {DType::f32, DType::bf16, DType::f16})
        for (DType c : {DType::f32, DType::bf16, DType::f16}) check({7, 33, 129, ta, tb, true, a, b, c});
}

TEST_P(Gemm, ColumnSlicesOfWiderTensors) {
  for (auto [ta, tb] : kRoles)
    for (DType dtype : {DType::f32, DType::bf16})
      for (bool accumulate : {false, true}) check({33, 7, 65, ta, tb, accumulate, dtype, dtype, dtype, true});
}

TEST_P(Gemm, MoreThanOneTile) {
  for (auto [ta, tb] : kRoles)
    for (bool accumulate : {false, true}) {
      check({1030, 3, 1100, ta, tb, accumulate, DType::bf16, DType::bf16, DType::bf16});
      check({3, 1030, 1100, ta, tb, accumulate, DType::bf16, DType::bf16, DType::f32});
      check({5, 3, 2050, ta, tb, accumulate, DType::bf16, DType::f32, DType::bf16});
    }
}

TEST_P(Gemm, InnerDimensionsAndChunksBeyondOnePanel) {
  for (auto [ta, tb] : kRoles) {
    check({210, 66, 5131, ta, tb, true, DType::bf16, DType::bf16, DType::bf16});
    check({50, 66, 5131, ta, tb, true, DType::bf16, DType::bf16, DType::f32});
    check({50, 66, 5131, ta, tb, false, DType::bf16, DType::bf16, DType::bf16});
    check({50, 66, 2600, ta, tb, true});
  }
  check({1100, 17, 2570, false, true, true, DType::bf16, DType::bf16, DType::bf16});  // more rows than fp32 sums are kept for
}

TEST_P(Gemm, FewRows) {
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 23, 24, 25})
    for (int64_t k : {31, 64, 2081})
      for (bool accumulate : {false, true}) {
        check({m, 13, k, false, true, accumulate, DType::f32, DType::f32, DType::f32, true});
        for (DType c : {DType::f32, DType::bf16}) check({m, 13, k, false, true, accumulate, DType::bf16, DType::bf16, c, true});
      }
}

TEST_P(Gemm, EveryHeightAndWidthOfARegisterTile) {
  for (auto [ta, tb] : kRoles)
    for (int64_t m : {25, 26, 27, 28, 29, 30, 31})
      for (int64_t n : {15, 16, 17, 33, 63, 64, 65})
        for (DType dtype : {DType::f32, DType::bf16}) check({m, n, 35, ta, tb, true, dtype, dtype, dtype, true});
}

TEST_P(Gemm, WhatLiesBesideAMatrixIsNotRead) {
  // Columns of wider tensors that are NaN elsewhere; odd sizes, so that words and vectors end within a row.
  const int64_t k = 37;
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t m : {3, 29})
      for (auto [ta, tb] : kRoles) {
        const int64_t n = 19, a_rows = ta ? k : m, a_cols = ta ? m : k, b_rows = tb ? n : k, b_cols = tb ? k : n;
        const auto framed = [&](int64_t rows, int64_t cols) {
          Doubles values(static_cast<size_t>((rows + 2) * (cols + 2)), NAN);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < cols; ++c) values[static_cast<size_t>((r + 1) * (cols + 2) + c + 1)] = 1;
          return values;
        };
        const auto inner = [](const Tensor& t) { return t.slice(1, t.rows.count - 2).columns(1, t.cols - 2); };
        Owned a(dtype, a_rows + 2, a_cols + 2, framed(a_rows, a_cols)), b(dtype, b_rows + 2, b_cols + 2, framed(b_rows, b_cols)), c(dtype, m, n);
        ops::gemm(context, {inner(a), inner(b), c, ta, tb, false});
        for (double x : c.doubles()) ASSERT_EQ(x, 37) << m << " ta" << ta << " tb" << tb;
      }
}

TEST_P(Gemm, OwnKernelsGiveTheSameBitsForEveryNumberOfThreads) {
  const std::string name = context.backend().name;
  if (name.find("avx512") == std::string::npos) GTEST_SKIP() << "oneDNN multiplies here";
  const bool bf16 = name == "cpu (avx512_bf16)" && ops::bf16_provider() == ops::Bf16Provider::automatic && !ops::onednn::matrix_tiles();
  const int before = omp_get_max_threads();
  for (DType dtype : {DType::f32, DType::bf16})
    for (auto [ta, tb] : kRoles)
      for (int64_t m : {5, 400}) {
        if (dtype == DType::bf16 ? !bf16 : !tb) continue;
        Owned a(dtype, ta ? 2700 : m, ta ? m : 2700, random_doubles(m * 2700, 4)), b(dtype, tb ? 150 : 2700, tb ? 2700 : 150, random_doubles(2700 * 150, 5));
        std::vector<std::vector<char>> results;
        for (int threads : {1, 2, 5}) {
          omp_set_num_threads(threads);
          Owned c(dtype, m, 150);
          ops::gemm(context, {a, b, c, ta, tb, false});
          results.push_back(c.bytes());
        }
        omp_set_num_threads(before);
        EXPECT_EQ(results[0], results[1]);
        EXPECT_EQ(results[0], results[2]);
      }
}

TEST_P(Gemm, SumsAreRoundedOnceWhateverTheLengthOfTheInnerDimension) {
  // 4096 ones and a bf16 result: rounding after each tile or term would lose the small addends.
  const int64_t k = 4096;
  Doubles a(static_cast<size_t>(k), 1.0);
  a[0] = 256;
  Owned ta(DType::bf16, 1, k, a), tb(DType::bf16, 1, k, Doubles(static_cast<size_t>(k), 1.0)), tc(DType::bf16, 1, 1);
  ops::gemm(context, {ta, tb, tc, false, true, false});
  EXPECT_EQ(tc.doubles()[0], rounded(256.0 + 4095.0, DType::bf16));
}

TEST_P(Gemm, TheSameBitsTwice) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Doubles a = random_doubles(300 * 200, 4), b = random_doubles(300 * 150, 5);
    Owned ta(dtype, 300, 200, a), tb(dtype, 300, 150, b), once(dtype, 200, 150), again(dtype, 200, 150);
    ops::gemm(context, {ta, tb, once, true, false, false});
    ops::gemm(context, {ta, tb, again, true, false, false});
    EXPECT_EQ(once.bytes(), again.bytes());
  }
}

TEST_P(Gemm, RowsBeyondTheRealCountAreNotTouched) {
  Owned a(DType::bf16, 9, 8, random_doubles(72, 6)), b(DType::bf16, 5, 8, random_doubles(40, 7)), c(DType::bf16, 9, 5, Doubles(45, 2.0));
  const Tensor x = a.tensor.slice(0, Rows{4, 9}), y = c.tensor.slice(0, Rows{4, 9});
  ops::gemm(context, {x, b, y, false, true, false});
  const Doubles out = c.doubles();
  for (size_t i = 20; i < 45; ++i) EXPECT_EQ(out[i], 2.0);
}

// With ATTUNE_BF16_GEMM=onednn (its own ctest entry) this holds for every machine, else where bf16 is in hardware.
TEST(GemmProvider, NoBf16ProductFallsToTheReferenceImplementation) {
  if (!ops::onednn::bf16_hardware()) GTEST_SKIP() << "bf16 products are converted to fp32 here";
  Owned x(DType::bf16, 64, 96), w(DType::bf16, 128, 96), y(DType::bf16, 64, 128), dw(DType::f32, 128, 96);
  for (const ops::Gemm& g : {ops::Gemm{x, w, y, false, true, false}, ops::Gemm{y, w, x, false, false, false},
                             ops::Gemm{y, x, w, true, false, false}, ops::Gemm{y, x, dw, true, false, true}}) {
    const std::string name = ops::onednn::bf16_implementation(g);
    EXPECT_EQ(name.find("ref"), std::string::npos) << name;
    RecordProperty("implementation", name);
  }
}

ATTUNE_EVERY_BACKEND(Gemm);

}  // namespace
}  // namespace attune
