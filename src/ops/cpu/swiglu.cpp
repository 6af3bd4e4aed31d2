#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

[[gnu::always_inline]] inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

}  // namespace

void swiglu_forward(const SwigluForward& a) {
  const int64_t n = a.y.rows.count, f = a.y.cols;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * f > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const T* g = a.x.row<T>(i);
      const T* u = g + f;
      T* y = a.y.row<T>(i);
      for (int64_t j = 0; j < f; ++j) {
        const float gate = to_float(g[j]);
        y[j] = from_float<T>(gate * sigmoid(gate) * to_float(u[j]));
      }
    }
  });
}

void swiglu_backward(const SwigluBackward& a) {
  const int64_t n = a.dy.rows.count, f = a.dy.cols;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * f > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const T* g = a.x.row<T>(i);
      const T* u = g + f;
      const T* dy = a.dy.row<T>(i);
      T* dg = a.dx.row<T>(i);
      T* du = dg + f;
      for (int64_t j = 0; j < f; ++j) {
        const float gate = to_float(g[j]), up = to_float(u[j]), grad = to_float(dy[j]), s = sigmoid(gate);
        dg[j] = from_float<T>(grad * up * s * (1.0f + gate * (1.0f - s)));
        du[j] = from_float<T>(grad * gate * s);
      }
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
