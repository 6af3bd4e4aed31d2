#include "ops/cpu/lanes.h"
#include "ops/cpu/sweep.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void adam(const Adam& a) {
  const float step = a.of.lr / a.correction1, unbiased = 1.0f / std::sqrt(a.correction2), beta1 = a.beta1, beta2 = a.beta2, eps = a.eps;
  sweep(a.of, [&](Range r, float* p, const float* g, Noise& noise) {
    float copy_m[kBlock], copy_v[kBlock], copy_highest[kBlock];
    float* m = open(a.m, r, copy_m);
    float* v = open(a.v, r, copy_v);
    const auto step_block = [&](auto amsgrad) __attribute__((always_inline)) {
      float* highest = amsgrad ? open(a.highest, r, copy_highest) : nullptr;
      over(r.n, [&](int64_t i, auto part) {
        fetch(p + i + kBlock), fetch(m + i + kBlock), fetch(v + i + kBlock);
        const Floats gradient = part.load(g + i);
        const Floats first = beta1 * part.load(m + i) + (1.0f - beta1) * gradient;
        Floats second = beta2 * part.load(v + i) + (1.0f - beta2) * gradient * gradient;
        part.store(first, m + i);
        part.store(second, v + i);
        if (amsgrad) {
          second = at_least(second, part.load(highest + i));
          part.store(second, highest + i);
        }
        part.store(part.load(p + i) - step * first * reciprocal(square_root(second) * unbiased + eps), p + i);
      });
      if (amsgrad) store(highest, a.highest, r, noise, 3);
    };
    if (a.highest.defined()) step_block(std::true_type{});
    else step_block(std::false_type{});
    store(m, a.m, r, noise, 1);
    store(v, a.v, r, noise, 2);
  });
}

void sgd(const Sgd& a) {
  sweep(a.of, [&](Range r, float* p, const float* g, Noise& noise) {
    if (!a.buffer.defined()) {
      for (int64_t i = 0; i < r.n; ++i) p[i] -= a.of.lr * g[i];
      return;
    }
    float b[kBlock];
    load(a.buffer, r, b);
    for (int64_t i = 0; i < r.n; ++i) b[i] = a.first ? g[i] : a.momentum * b[i] + g[i];
    for (int64_t i = 0; i < r.n; ++i) p[i] -= a.of.lr * (a.nesterov ? g[i] + a.momentum * b[i] : b[i]);
    store(b, a.buffer, r, noise, 1);
  });
}

void lion(const Lion& a) {
  sweep(a.of, [&](Range r, float* p, const float* g, Noise& noise) {
    float m[kBlock];
    load(a.m, r, m);
    for (int64_t i = 0; i < r.n; ++i) {
      const float c = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
      p[i] -= a.of.lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
      m[i] = a.beta2 * m[i] + (1.0f - a.beta2) * g[i];
    }
    store(m, a.m, r, noise, 1);
  });
}

void squared_norm(const SquaredNorm& a) {
  const int64_t n = a.x.count(), blocks = (n + kSquaredNormBlock - 1) / kSquaredNormBlock;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    const T* x = a.x.as<T>();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (int64_t b = 0; b < blocks; ++b) {
      double sum = 0;
      for (int64_t i = b * kSquaredNormBlock; i < std::min(n, (b + 1) * kSquaredNormBlock); i += 1024) {
        const int64_t end = std::min({n, (b + 1) * kSquaredNormBlock, i + 1024});
        const float part = sum_over(end - i, [&](int64_t j, auto lanes) {
          const Floats value = lanes.load(x + i + j);
          return value * value;
        });
        sum += part;
      }
      a.partial[b] = sum;
    }
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += a.partial[b];
  *a.sum = total;
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
