#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void adamw(const AdamW& a) {
  auto* p = a.parameter.as<float>();
  auto* m = a.m.as<float>();
  auto* v = a.v.as<float>();
  auto* copy = a.copy.defined() ? a.copy.as<BFloat16>() : nullptr;
  const int64_t n = a.parameter.count();
  const float decay = 1.0f - a.lr * a.weight_decay, step = a.lr / a.correction1;
  const float root2 = std::sqrt(a.correction2);
  with_type(a.gradient.dtype, [&](auto g0) {
    using G = decltype(g0);
    const G* gradient = a.gradient.as<G>();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float g = a.grad_scale * to_float(gradient[i]);
      m[i] = a.beta1 * m[i] + (1.0f - a.beta1) * g;
      v[i] = a.beta2 * v[i] + (1.0f - a.beta2) * g * g;
      p[i] = p[i] * decay - step * m[i] / (std::sqrt(v[i]) / root2 + a.eps);
      if (copy) copy[i] = to_bf16(p[i]);
    }
  });
}

void sgd(const Sgd& a) {
  auto* copy = a.copy.defined() ? a.copy.as<BFloat16>() : nullptr;
  const int64_t n = a.parameter.count();
  const float decay = 1.0f - a.lr * a.weight_decay, step = a.lr * a.grad_scale;
  with_type(a.parameter.dtype, [&](auto p0) {
    using P = decltype(p0);
    P* p = a.parameter.as<P>();
    with_type(a.gradient.dtype, [&](auto g0) {
      using G = decltype(g0);
      const G* gradient = a.gradient.as<G>();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const float updated = to_float(p[i]) * decay - step * to_float(gradient[i]);
        p[i] = from_float<P>(updated);
        if (copy) copy[i] = to_bf16(updated);
      }
    });
  });
}

double squared_norm(const SquaredNorm& a) {
  const int64_t n = a.x.count(), blocks = (n + kSquaredNormBlock - 1) / kSquaredNormBlock;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    const T* x = a.x.as<T>();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (int64_t b = 0; b < blocks; ++b) {
      double sum = 0;
      for (int64_t i = b * kSquaredNormBlock; i < std::min(n, (b + 1) * kSquaredNormBlock); i += 1024) {
        float part = 0;
        const int64_t end = std::min({n, (b + 1) * kSquaredNormBlock, i + 1024});
#pragma omp simd reduction(+ : part)
        for (int64_t j = i; j < end; ++j) part += to_float(x[j]) * to_float(x[j]);
        sum += part;
      }
      a.partial[b] = sum;
    }
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += a.partial[b];
  return total;
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
