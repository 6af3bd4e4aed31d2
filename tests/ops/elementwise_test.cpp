#include "ops/elementwise.h"

#include <set>

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class Elementwise : public EveryBackend {};
constexpr DType kBoth[] = {DType::f32, DType::bf16, DType::f16};

TEST_P(Elementwise, AddRoundsOnceInEveryMixtureOfDtypesAndInPlace) {
  for (int64_t n : {0, 1, 33})
    for (int64_t d : {1, 7, 129})
      for (DType a : kBoth)
        for (DType b : kBoth)
          for (DType o : kBoth) {
            const Doubles x = rounded(random_doubles(n * d, 1), a), y = rounded(random_doubles(n * d, 2), b);
            Owned ta(a, n, d, x, d + 2), tb(b, n, d, y, d + 1), out(o, n, d);
            ops::add(context, {ta, tb, out});
            const Doubles got = out.doubles();
            for (size_t i = 0; i < got.size(); ++i)
              EXPECT_EQ(got[i], rounded(static_cast<float>(x[i]) + static_cast<float>(y[i]), o));
            ops::add(context, {ta, tb, tb});
            if (b == o) {
              EXPECT_EQ(tb.doubles(), got);
            }
          }
}

TEST_P(Elementwise, AddBiasAndItsGradient) {
  for (int64_t n : {0, 1, 7, 300})
    for (int64_t d : {1, 33, 129})
      for (DType dtype : kBoth) {
        const Doubles x = rounded(random_doubles(n * d, 1), dtype), b = rounded(random_doubles(d, 2), dtype);
        Owned tx(dtype, n, d, x, d + 3), tb(dtype, 1, d, b);
        ops::add_bias(context, {tx, tb});
        const Doubles got = tx.doubles();
        for (size_t i = 0; i < got.size(); ++i)
          EXPECT_EQ(got[i], rounded(static_cast<float>(x[i]) + static_cast<float>(b[i % static_cast<size_t>(d)]), dtype));
        for (bool accumulate : {false, true}) {
          Doubles expected = accumulate ? b : Doubles(b.size());
          for (size_t i = 0; i < x.size(); ++i) expected[i % static_cast<size_t>(d)] += x[i];
          Owned dx(dtype, n, d, x, d + 3), sum(DType::f32, 1, d, b), again(DType::f32, 1, d, b);
          ops::sum_rows(context, {dx, sum, accumulate, {}});
          ops::sum_rows(context, {dx, again, accumulate, {}});
          EXPECT_LT(error_of(sum.doubles(), expected), 2e-5);
          EXPECT_EQ(sum.bytes(), again.bytes());
        }
      }
}

TEST_P(Elementwise, SumRowsRoundsToBf16Once) {
  Owned x(DType::f32, 300, 5, Doubles(1500, 0.01)), out(DType::bf16, 1, 5, Doubles(5, 1.0));
  ops::sum_rows(context, {x, out, true, {}});
  EXPECT_EQ(out.doubles()[0], rounded(4.0, DType::bf16));
}

TEST_P(Elementwise, ScaleConvertsAndAdds) {
  const Doubles x = rounded(random_doubles(7 * 33, 1), DType::bf16), y = rounded(random_doubles(7 * 33, 2), DType::bf16);
  for (DType from : kBoth)
    for (DType to : kBoth)
      for (bool accumulate : {false, true}) {
        Owned a(from, 7, 33, x, 40), b(to, 7, 33, y, 35);
        ops::scale(context, {a, b, -1.5f, accumulate});
        const Doubles got = b.doubles();
        for (size_t i = 0; i < got.size(); ++i)
          EXPECT_NEAR(got[i], -1.5 * x[i] + (accumulate ? y[i] : 0), to == DType::f32 ? 1e-5 : 4e-2);
      }
}

TEST_P(Elementwise, FillZeroKeepsToItsColumns) {
  for (DType dtype : kBoth) {
    Owned x(dtype, 7, 5, Doubles(35, 3.0), 9);
    ops::fill_zero(context, x);
    EXPECT_EQ(x.doubles(), Doubles(35, 0.0));
  }
}

TEST_P(Elementwise, GatherAndScatterAreInverse) {
  const std::vector<int32_t> rows{6, 0, 3};
  for (DType dtype : kBoth)
    for (int64_t d : {1, 33}) {
      const Doubles x = rounded(random_doubles(7 * d, 1), dtype);
      Owned tx(dtype, 7, d, x, d + 4), picked(dtype, 3, d), back(dtype, 7, d, Doubles(static_cast<size_t>(7 * d), 1.0), d + 1);
      ops::gather_rows(context, {tx, vector_of(rows), picked});
      ops::scatter_rows(context, {picked, vector_of(rows), back, true});
      ops::scatter_rows(context, {picked, vector_of(std::vector<int32_t>{5, 1, 2}), back, false});
      const Doubles p = picked.doubles(), b = back.doubles();
      const auto w = static_cast<size_t>(d);
      for (size_t i = 0; i < 3; ++i)
        for (size_t j = 0; j < w; ++j) {
          const auto r = static_cast<size_t>(rows[i]);
          EXPECT_EQ(p[i * w + j], x[r * w + j]);
          EXPECT_EQ(b[r * w + j], rounded(static_cast<float>(1 + x[r * w + j]), dtype));
        }
      EXPECT_EQ(b[5 * w], p[0]);
      EXPECT_EQ(b[4 * w], 1.0);
    }
}

class Dropout : public EveryBackend {
 protected:
  Doubles run(const std::vector<int64_t>& samples, const std::vector<int32_t>& positions, int64_t d, float p, uint64_t key,
              DType dtype = DType::f32) {
    const auto n = static_cast<int64_t>(samples.size());
    Owned x(dtype, n, d, Doubles(static_cast<size_t>(n * d), 1.0), d + 1);
    ops::dropout(context, {x, x, p, key, vector_of(samples), vector_of(positions)});
    return x.doubles();
  }
};

TEST_P(Dropout, KeepsAboutTheRightShareAndRescalesIt) {
  const std::vector<int64_t> samples(300, 7);
  std::vector<int32_t> positions(300);
  for (int i = 0; i < 300; ++i) positions[static_cast<size_t>(i)] = i;
  for (DType dtype : kBoth) {
    const Doubles y = run(samples, positions, 65, 0.25f, 3, dtype);
    double kept = 0;
    for (double v : y) {
      EXPECT_TRUE(v == 0 || v == rounded(1.0f / 0.75f, dtype));
      kept += v != 0;
    }
    EXPECT_NEAR(kept / static_cast<double>(y.size()), 0.75, 0.01);
  }
}

TEST_P(Dropout, IsAFunctionOfKeySamplePositionAndChannelOnly) {
  const Doubles a = run({4, 4, 9}, {0, 1, 0}, 33, 0.5f, 1), b = run({9, 4, 8, 4}, {0, 1, 3, 0}, 33, 0.5f, 1);
  for (size_t j = 0; j < 33; ++j) {
    EXPECT_EQ(a[j], b[3 * 33 + j]);
    EXPECT_EQ(a[33 + j], b[33 + j]);
    EXPECT_EQ(a[66 + j], b[j]);
  }
  EXPECT_NE(run({4}, {0}, 33, 0.5f, 1), run({4}, {0}, 33, 0.5f, 2));
  EXPECT_NE(run({4}, {0}, 33, 0.5f, 1), run({4}, {1}, 33, 0.5f, 1));
  EXPECT_NE(run({4}, {0}, 33, 0.5f, 1), run({5}, {0}, 33, 0.5f, 1));
}

ATTUNE_EVERY_BACKEND(Elementwise);
ATTUNE_EVERY_BACKEND(Dropout);

}  // namespace
}  // namespace attune
