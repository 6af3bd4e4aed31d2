#include "ops/cpu/lanes.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void rms_norm_forward(const RmsNormForward& a) {
  const int64_t d = a.weight.cols, heads = a.x.cols / d, n = a.x.rows.count * heads;
  auto* rstd = a.rstd.as<float>();
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    with_type(a.weight.dtype, [&](auto w0) {
      using W = decltype(w0);
      const W* w = a.weight.as<W>();
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const T* x = a.x.row<T>(i / heads) + i % heads * d;
        T* y = a.y.row<T>(i / heads) + i % heads * d;
        const float sum = sum_over(d, [&](int64_t j, auto part) {
          const Floats value = part.load(x + j);
          return value * value;
        });
        const float r = 1.0f / std::sqrt(sum / static_cast<float>(d) + a.eps);
        rstd[i] = r;
        over(d, [&](int64_t j, auto part) { part.store(part.load(x + j) * r * (part.load(w + j) + a.offset), y + j); });
      }
    });
  });
}

void rms_norm_backward(const RmsNormBackward& a) {
  const int64_t d = a.weight.cols, heads = a.x.cols / d, n = a.x.rows.count * heads;
  const auto* rstd = a.rstd.as<float>();
  const bool wants_dw = a.dweight.defined();
  int used = 1;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    with_type(a.weight.dtype, [&](auto w0) {
      using W = decltype(w0);
      const W* w = a.weight.as<W>();
#pragma omp parallel if (n * d > kParallelElements)
      {
        const ThreadRange range = thread_range(n);
        if (range.thread == 0) used = range.threads;
        float* partial = wants_dw ? a.partial.row<float>(range.thread) : nullptr;
        if (wants_dw) std::fill(partial, partial + d, 0.0f);
        for (int64_t i = range.begin; i < range.end; ++i) {
          const T* x = a.x.row<T>(i / heads) + i % heads * d;
          const T* dy = a.dy.row<T>(i / heads) + i % heads * d;
          const float r = rstd[i];
          // First: dx may overwrite x.
          T* dx = a.dx.defined() ? a.dx.row<T>(i / heads) + i % heads * d : nullptr;
          const float dot = sum_over(d, [&](int64_t j, auto part) {
            fetch(x + j + d), fetch(dy + j + d);  // the next row
            if (a.accumulate_dx) fetch(dx + j + d);
            const Floats product = part.load(dy + j) * part.load(x + j);
            if (wants_dw) part.store(part.load(partial + j) + product * r, partial + j);
            return product * (part.load(w + j) + a.offset);
          });
          if (!dx) continue;
          const float c = dot * r * r * r / static_cast<float>(d);
          over(d, [&](int64_t j, auto part) {
            const Floats before = a.accumulate_dx ? part.load(dx + j) : Floats{};
            part.store(before + part.load(dy + j) * (part.load(w + j) + a.offset) * r - part.load(x + j) * c, dx + j);
          });
        }
      }
    });
  });
  if (!wants_dw) return;
  with_type(a.dweight.dtype, [&](auto g0) {
    using G = decltype(g0);
    G* out = a.dweight.as<G>();
    for (int64_t j = 0; j < d; ++j) {
      float sum = a.accumulate_dweight ? to_float(out[j]) : 0.0f;
      for (int t = 0; t < used; ++t) sum += a.partial.row<float>(t)[j];
      out[j] = from_float<G>(sum);
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
