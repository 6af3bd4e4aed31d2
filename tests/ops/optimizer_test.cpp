#include "ops/optimizer.h"

#include <omp.h>

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class OptimizerOps : public EveryBackend {};

TEST_P(OptimizerOps, AdamWFollowsItsDefinitionForSeveralSteps) {
  for (int64_t n : {1, 7, 33, 129, 20000})
    for (DType gradient : {DType::f32, DType::bf16}) {
      Doubles p = rounded(random_doubles(n, 1), DType::f32), m(p.size()), v(p.size());
      Owned tp(DType::f32, 1, n, p), copy(DType::bf16, 1, n), tm(DType::f32, 1, n, m), tv(DType::f32, 1, n, v);
      // An eps that shows its place, and betas that tell first from second moment.
      const double b1 = 0.7f, b2 = 0.95f, eps = 1e-2f, lr = 0.05f, wd = 0.3f, grad_scale = 0.5f;
      for (int step = 1; step <= 3; ++step) {
        const Doubles g = rounded(random_doubles(n, 10 + static_cast<uint64_t>(step)), gradient);
        Owned tg(gradient, 1, n, g);
        const double c1 = 1 - std::pow(b1, step), c2 = 1 - std::pow(b2, step);
        ops::AdamW a;
        a.parameter = tp, a.copy = copy, a.gradient = tg, a.m = tm, a.v = tv;
        a.grad_scale = 0.5f, a.lr = 0.05f, a.beta1 = 0.7f, a.beta2 = 0.95f, a.eps = 1e-2f, a.weight_decay = 0.3f;
        a.correction1 = static_cast<float>(c1), a.correction2 = static_cast<float>(c2);
        ops::adamw(context, a);
        for (size_t i = 0; i < p.size(); ++i) {
          const double s = grad_scale * g[i];
          m[i] = b1 * m[i] + (1 - b1) * s;
          v[i] = b2 * v[i] + (1 - b2) * s * s;
          p[i] = p[i] * (1 - lr * wd) - lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + eps);
        }
      }
      EXPECT_LT(error_of(tp.doubles(), p), 1e-6);
      EXPECT_LT(error_of(tm.doubles(), m), 1e-6);
      EXPECT_LT(error_of(tv.doubles(), v), 1e-6);
      EXPECT_EQ(copy.doubles(), rounded(tp.doubles(), DType::bf16));
    }
}

TEST_P(OptimizerOps, Sgd) {
  for (int64_t n : {1, 33, 20000})
    for (DType dtype : {DType::f32, DType::bf16}) {
      const Doubles p = rounded(random_doubles(n, 1), DType::f32), g = rounded(random_doubles(n, 2), dtype);
      Owned tp(DType::f32, 1, n, p), tg(dtype, 1, n, g), copy(DType::bf16, 1, n);
      ops::sgd(context, {tp, copy, tg, 0.5f, 0.1f, 0.2f});
      Doubles expected;
      for (size_t i = 0; i < p.size(); ++i) expected.push_back(p[i] * (1 - 0.02) - 0.05 * g[i]);
      EXPECT_LT(error_of(tp.doubles(), expected), 1e-6);
      EXPECT_EQ(copy.doubles(), rounded(tp.doubles(), DType::bf16));
    }
}

TEST_P(OptimizerOps, SquaredNormIsTheSameForEveryThreadCount) {
  for (int64_t n : {0, 1, 7, 1025, 65537, 200001})
    for (DType dtype : {DType::f32, DType::bf16}) {
      const Doubles x = rounded(random_doubles(n, 3), dtype);
      Owned tx(dtype, 1, n, x);
      const double norm = ops::squared_norm(context, tx);
      EXPECT_NEAR(norm, dot(x, x), 1e-5 * (1 + dot(x, x)));
      const int threads = omp_get_max_threads();
      for (int t : {1, 2, 3}) {
        omp_set_num_threads(t);
        EXPECT_EQ(ops::squared_norm(context, tx), norm);
      }
      omp_set_num_threads(threads);
    }
}

ATTUNE_EVERY_BACKEND(OptimizerOps);

}  // namespace
}  // namespace attune
