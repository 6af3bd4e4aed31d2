#include "ops/optimizer.h"

#include <omp.h>

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class OptimizerOps : public EveryBackend {};

TEST_P(OptimizerOps, AdamWFollowsItsDefinitionForSeveralSteps) {
  for (int64_t n : {1, 7, 33, 129, 20000})
    for (DType gradient : {DType::f32, DType::bf16, DType::f16}) {
      Doubles p = rounded(random_doubles(n, 1), DType::f32), m(p.size()), v(p.size());
      Owned tp(DType::f32, 1, n, p), copy(DType::bf16, 1, n), tm(DType::f32, 1, n, m), tv(DType::f32, 1, n, v);
      // An eps that shows its place, and betas that tell first from second moment.
      const double b1 = 0.7f, b2 = 0.95f, eps = 1e-2f, lr = 0.05f, wd = 0.3f, grad_scale = 0.5f;
      for (int step = 1; step <= 3; ++step) {
        const Doubles g = rounded(random_doubles(n, 10 + static_cast<uint64_t>(step)), gradient);
        Owned tg(gradient, 1, n, g);
        const double c1 = 1 - std::pow(b1, step), c2 = 1 - std::pow(b2, step);
        ops::Adam a;
        a.of.parameter = tp, a.of.copy = copy, a.of.gradient = tg, a.m = tm, a.v = tv;
        a.of.grad_scale = 0.5f, a.of.lr = 0.05f, a.beta1 = 0.7f, a.beta2 = 0.95f, a.eps = 1e-2f, a.of.weight_decay = 0.3f;
        a.correction1 = static_cast<float>(c1), a.correction2 = static_cast<float>(c2);
        ops::adam(context, a);
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
      ops::Sgd a;
      a.of.parameter = tp, a.of.copy = copy, a.of.gradient = tg, a.of.grad_scale = 0.5f, a.of.lr = 0.1f, a.of.weight_decay = 0.2f;
      ops::sgd(context, a);
      Doubles expected;
      for (size_t i = 0; i < p.size(); ++i) expected.push_back(p[i] * (1 - 0.02) - 0.05 * g[i]);
      EXPECT_LT(error_of(tp.doubles(), expected), 1e-6);
      EXPECT_EQ(copy.doubles(), rounded(tp.doubles(), DType::bf16));
    }
}

// Adafactor's sums run over threads and blocks: against the definition in double, at sizes that fill neither evenly.
TEST_P(OptimizerOps, AdafactorFollowsItsDefinition) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {129, 700}, {300, 129}})
    for (DType dtype : {DType::f32, DType::bf16}) {
      const int64_t n = rows * cols;
      Doubles p = rounded(random_doubles(n, 1), DType::f32);
      const Doubles g = rounded(random_doubles(n, 2), dtype);
      Doubles r(static_cast<size_t>(rows)), c(static_cast<size_t>(cols));
      Owned tp(DType::f32, rows, cols, p), tg(dtype, rows, cols, g), tr(DType::f32, 1, rows, r), tc(DType::f32, 1, cols, c);
      ops::Adafactor a;
      a.of.parameter = tp, a.of.gradient = tg, a.of.lr = 0.1f, a.of.grad_scale = 0.5f, a.rows = tr, a.cols = tc, a.beta = 0.25f;
      ops::adafactor(context, a);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) {
          const double s = 0.25 * g[static_cast<size_t>(i * cols + j)] * g[static_cast<size_t>(i * cols + j)];
          r[static_cast<size_t>(i)] += 0.75 * s / static_cast<double>(cols);
          c[static_cast<size_t>(j)] += 0.75 * s / static_cast<double>(rows);
        }
      double mean = 0, total = 0;
      for (double x : r) mean += x / static_cast<double>(rows);
      Doubles u(p.size());
      for (size_t i = 0; i < u.size(); ++i) {
        u[i] = 0.5 * g[i] / std::sqrt(r[i / static_cast<size_t>(cols)] * c[i % static_cast<size_t>(cols)] / mean);
        total += u[i] * u[i] / static_cast<double>(n);
      }
      for (size_t i = 0; i < u.size(); ++i) p[i] -= 0.1 * u[i] / std::max(1.0, std::sqrt(total));
      EXPECT_LT(error_of(tp.doubles(), p), 1e-5);
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
