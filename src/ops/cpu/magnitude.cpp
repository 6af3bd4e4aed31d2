#include "ops/cpu/lanes.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr int64_t kBlock = 1024;   // columns of a row that are summed up in the first-level cache
constexpr int64_t kColumns = 256;  // columns of one thread's turn

// Σ_j (w_j + Σ_k f_k·a_kj)²
template <class W, class T>
[[gnu::always_inline]] inline float squares_of_row(const W* w, const T* b, const AdaptedRowNorms& s) {
  float sum = 0;
  for (int64_t first = 0; first < s.weight.cols; first += kBlock) {
    const int64_t n = std::min(kBlock, s.weight.cols - first);
    float row[kBlock];
    over(n, [&](int64_t j, auto part) { part.store(part.load(w + first + j), row + j); });
    for (int64_t k = 0; k < s.a.rows.count; ++k) {
      const T* a = s.a.row<T>(k) + first;
      const float factor = s.scale * to_float(b[k]);
      over(n, [&](int64_t j, auto part) { part.store(part.load(row + j) + factor * part.load(a + j), row + j); });
    }
    sum += sum_over(n, [&](int64_t j, auto part) {
      const Floats x = part.load(row + j);
      return x * x;
    });
  }
  return sum;
}

}  // namespace

void adapted_row_norms(const AdaptedRowNorms& a) {
  const int64_t out = a.weight.rows.count;
  with_type(a.weight.dtype, [&](auto w0) {
    using W = decltype(w0);
    with_type(a.a.dtype, [&](auto a0) {
      using T = decltype(a0);
#pragma omp parallel for schedule(static) if (out * a.weight.cols > kParallelElements)
      for (int64_t i = 0; i < out; ++i) {
        const float norm = std::sqrt(squares_of_row(a.weight.row<W>(i), a.b.row<T>(i), a));
        with_type(a.out.dtype, [&](auto o0) {
          using O = decltype(o0);
          a.out.as<O>()[i] = from_float<O>(norm);
        });
      }
    });
  });
}

void magnitude_forward(const MagnitudeForward& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols;
  auto* gain = a.gain.as<float>();
  with_type(a.magnitude.dtype, [&](auto m0) {
    using M = decltype(m0);
    with_type(a.norms.dtype, [&](auto n0) {
      using N = decltype(n0);
      for (int64_t j = 0; j < d; ++j) {
        const float norm = to_float(a.norms.as<N>()[j]);
        gain[j] = norm > 0 ? to_float(a.magnitude.as<M>()[j]) / norm : 0.0f;
      }
    });
  });
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const T* x = a.x.row<T>(i);
      T* y = a.y.row<T>(i);
      if (a.accumulate) over(d, [&](int64_t j, auto part) { part.store(part.load(y + j) + part.load(x + j) * part.load(gain + j), y + j); });
      else over(d, [&](int64_t j, auto part) { part.store(part.load(x + j) * part.load(gain + j), y + j); });
    }
  });
}

void magnitude_backward(const MagnitudeBackward& a) {
  const int64_t n = a.dy.rows.count, d = a.dy.cols;
  const auto column_of = [](const Tensor& t, int64_t j) {
    float value = 0;
    with_type(t.dtype, [&](auto t0) { value = to_float(t.as<decltype(t0)>()[j]); });
    return value;
  };
  with_type(a.dy.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t first = 0; first < d; first += kColumns) {
      const int64_t width = std::min(kColumns, d - first);
      float gain[kColumns], inverse[kColumns], sum[kColumns] = {};
      for (int64_t j = 0; j < width; ++j) {
        const float norm = column_of(a.norms, first + j);
        inverse[j] = norm > 0 ? 1.0f / norm : 0.0f;
        gain[j] = norm > 0 ? column_of(a.magnitude, first + j) / norm : 0.0f;
      }
      for (int64_t i = 0; i < n; ++i) {
        const T *dy = a.dy.row<T>(i) + first, *x = a.x.row<T>(i) + first;
        T* dx = a.dx.row<T>(i) + first;
        over(width, [&](int64_t j, auto part) {
          const Floats g = part.load(dy + j);
          if (a.dmagnitude.defined()) part.store(part.load(sum + j) + g * part.load(x + j), sum + j);
          part.store(g * part.load(gain + j), dx + j);
        });
      }
      if (!a.dmagnitude.defined()) continue;
      with_type(a.dmagnitude.dtype, [&](auto o0) {
        using O = decltype(o0);
        O* out = a.dmagnitude.as<O>() + first;
        for (int64_t j = 0; j < width; ++j) out[j] = from_float<O>(sum[j] * inverse[j] + (a.accumulate ? to_float(out[j]) : 0.0f));
      });
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
