#include "ops/magnitude.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class Magnitude : public EveryBackend {};
constexpr DType kAll[] = {DType::f32, DType::bf16, DType::f16};

TEST_P(Magnitude, NormsAreThoseOfTheAdaptedRows) {
  const int64_t out = 7;
  for (int64_t in : {1, 33, 1100})
    for (int64_t r : {1, 5})
      for (DType w : kAll)
        for (DType t : kAll) {
          const Doubles W = rounded(random_doubles(out * in, 1), w), A = rounded(random_doubles(r * in, 2), t), B = rounded(random_doubles(out * r, 3), t);
          Owned tw(w, out, in, W, in + 3), ta(t, r, in, A), tb(t, out, r, B), norms(DType::f32, 1, out), narrow(DType::bf16, 1, out);
          ops::adapted_row_norms(context, {tw, ta, tb, 0.75f, norms});
          ops::adapted_row_norms(context, {tw, ta, tb, 0.75f, narrow});
          Doubles expected;
          for (int64_t o = 0; o < out; ++o) {
            double squares = 0;
            for (int64_t i = 0; i < in; ++i) {
              double v = W[static_cast<size_t>(o * in + i)];
              for (int64_t k = 0; k < r; ++k) v += 0.75 * B[static_cast<size_t>(o * r + k)] * A[static_cast<size_t>(k * in + i)];
              squares += v * v;
            }
            expected.push_back(std::sqrt(squares));
          }
          EXPECT_LT(error_of(norms.doubles(), expected), 1e-5);
          EXPECT_EQ(narrow.doubles(), rounded(norms.doubles(), DType::bf16));
        }
}

TEST_P(Magnitude, ForwardAndBackwardByColumn) {
  for (int64_t n : {0, 1, 33})
    for (int64_t d : {1, 7, 300})
      for (DType t : kAll)
        for (bool accumulate : {false, true}) {
          const Doubles x = rounded(random_doubles(n * d, 1), t), y = rounded(random_doubles(n * d, 2), t), dy = rounded(random_doubles(n * d, 3), t),
                        m = random_doubles(d, 4), before = random_doubles(d, 6);
          Doubles norms = random_doubles(d, 5);
          for (double& v : norms) v = std::abs(v) + 0.5;
          norms[0] = 0;  // no direction
          Owned tx(t, n, d, x, d + 2), ty(t, n, d, y, d + 1), tm(DType::f32, 1, d, m), tn(DType::f32, 1, d, norms), g(t, n, d, dy, d + 4),
              dm(DType::f32, 1, d, before);
          ops::magnitude_forward(context, {tx, tm, tn, ty, accumulate, {}});
          ops::magnitude_backward(context, {g, tx, tm, tn, g, dm, accumulate});
          Doubles forward = accumulate ? y : Doubles(y.size()), back(y.size()), sum = accumulate ? before : Doubles(before.size());
          for (size_t i = 0; i < y.size(); ++i) {
            const size_t j = i % static_cast<size_t>(d);
            const double inverse = norms[j] > 0 ? 1 / norms[j] : 0;
            forward[i] += x[i] * m[j] * inverse;
            back[i] = dy[i] * m[j] * inverse;
            sum[j] += dy[i] * x[i] * inverse;
          }
          const double tolerance = t == DType::f32 ? 1e-5 : t == DType::f16 ? 2e-3 : 1e-2;
          if (n > 0) {
            EXPECT_LT(error_of(ty.doubles(), forward), tolerance);
            EXPECT_LT(error_of(g.doubles(), back), tolerance);
          }
          EXPECT_LT(error_of(dm.doubles(), sum), 1e-4);
        }
}

ATTUNE_EVERY_BACKEND(Magnitude);

}  // namespace
}  // namespace attune
