#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void inverse_row_norms(const InverseRowNorms& a) {
  const int64_t n = a.weight.rows.count, d = a.weight.cols;
  with_type(a.weight.dtype, [&](auto w0) {
    using W = decltype(w0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const W* w = a.weight.row<W>(i);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < d; ++j) sum += to_float(w[j]) * to_float(w[j]);
      a.out.as<float>()[i] = 1.0f / std::max(std::sqrt(sum), 1e-12f);
    }
  });
}

void scale_columns(const ScaleColumns& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols;
  const auto* scale = a.scale.as<float>();
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      T* x = a.x.row<T>(i);
      for (int64_t j = 0; j < d; ++j) x[j] = from_float<T>(to_float(x[j]) * scale[j]);
    }
  });
}

void project_rows(const ProjectRows& a) {
  const int64_t n = a.weight.rows.count, d = a.weight.cols;
  with_type(a.weight.dtype, [&](auto w0) {
    using W = decltype(w0);
    with_type(a.gradient.dtype, [&](auto g0) {
      using G = decltype(g0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const W* w = a.weight.row<W>(i);
        G* g = a.gradient.row<G>(i);
        const float inverse = a.inverse_norm.as<float>()[i];
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < d; ++j) dot += to_float(w[j]) * to_float(g[j]);
        const float along = dot * inverse * inverse;
        for (int64_t j = 0; j < d; ++j) g[j] = from_float<G>(to_float(g[j]) - along * to_float(w[j]));
      }
    });
  });
}

void softcap(const Softcap& a) {
  const int64_t n = a.logits.rows.count, d = a.logits.cols;
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
  for (int64_t i = 0; i < n; ++i) {
    float* z = a.logits.row<float>(i);
    for (int64_t j = 0; j < d; ++j) z[j] = a.cap * fast_tanh(z[j] / a.cap);
    if (a.kept.defined()) std::copy(z, z + d, a.kept.row<float>(i));
  }
}

void softcap_backward(const SoftcapBackward& a) {
  const int64_t n = a.capped.rows.count, d = a.capped.cols;
  with_type(a.dlogits.dtype, [&](auto g0) {
    using G = decltype(g0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float* z = a.capped.row<float>(i);
      G* g = a.dlogits.row<G>(i);
      for (int64_t j = 0; j < d; ++j) {
        const float t = z[j] / a.cap;
        g[j] = from_float<G>(to_float(g[j]) * (1.0f - t * t));
      }
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
