#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

template <int N>
__global__ void __launch_bounds__(kThreads) inverse_norms(View weight, int64_t rows, int64_t cols, float* out) {
  const int64_t i = warp_row();
  if (i >= rows) return;
  float sum = 0;
  for (int64_t j = lane() * N; j < cols; j += kWarp * N) {
    float w[N];
    load(weight, i, j, w);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += w[k] * w[k];
  }
  sum = warp_sum(sum);
  if (lane() == 0) out[i] = 1.0f / fmaxf(sqrtf(sum), 1e-12f);
}

template <int N>
__global__ void __launch_bounds__(kThreads) project(View weight, View gradient, int64_t rows, int64_t cols, const float* inverse_norm) {
  const int64_t i = warp_row();
  if (i >= rows) return;
  float dot = 0;
  for (int64_t j = lane() * N; j < cols; j += kWarp * N) {
    float w[N], g[N];
    load(weight, i, j, w);
    load(gradient, i, j, g);
#pragma unroll
    for (int k = 0; k < N; ++k) dot += w[k] * g[k];
  }
  const float along = warp_sum(dot) * inverse_norm[i] * inverse_norm[i];
  for (int64_t j = lane() * N; j < cols; j += kWarp * N) {
    float w[N], g[N];
    load(weight, i, j, w);
    load(gradient, i, j, g);
#pragma unroll
    for (int k = 0; k < N; ++k) g[k] -= along * w[k];
    store(g, gradient, i, j);
  }
}

struct ScaleColumnsOp {
  View x, factors;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float value[N], factor[N];
    load(x, row, col, value);
    load(factors, 0, col, factor);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] *= factor[i];
    store(value, x, row, col);
  }
};

struct SoftcapOp {
  View logits, kept;
  float cap;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float z[N];
    load(logits, row, col, z);
#pragma unroll
    for (int i = 0; i < N; ++i) z[i] = cap * tanhf(z[i] / cap);
    store(z, logits, row, col);
    if (kept.defined()) store(z, kept, row, col);
  }
};

struct SoftcapSlope {
  View capped, dlogits;
  float cap;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float z[N], g[N];
    load(capped, row, col, z);
    load(dlogits, row, col, g);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float t = z[i] / cap;
      g[i] *= 1.0f - t * t;
    }
    store(g, dlogits, row, col);
  }
};

}  // namespace

void inverse_row_norms(const InverseRowNorms& a) {
  const int64_t rows = a.weight.rows.count, cols = a.weight.cols;
  launch("inverse_row_norms", warp_rows(rows), wide(cols, {a.weight}) ? inverse_norms<kWide> : inverse_norms<1>, a.weight, rows, cols, a.out.as<float>());
}

void scale_columns(const ScaleColumns& a) {
  over_elements("scale_columns", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x, a.scale}), ScaleColumnsOp{a.x, a.scale});
}

void project_rows(const ProjectRows& a) {
  const int64_t rows = a.weight.rows.count, cols = a.weight.cols;
  launch("project_rows", warp_rows(rows), wide(cols, {a.weight, a.gradient}) ? project<kWide> : project<1>, a.weight, a.gradient, rows, cols,
         a.inverse_norm.as<float>());
}

void softcap(const Softcap& a) {
  over_elements("softcap", a.logits.rows.count, a.logits.cols, wide(a.logits.cols, {a.logits, a.kept}), SoftcapOp{a.logits, a.kept, a.cap});
}

void softcap_backward(const SoftcapBackward& a) {
  over_elements("softcap_backward", a.capped.rows.count, a.capped.cols, wide(a.capped.cols, {a.capped, a.dlogits}), SoftcapSlope{a.capped, a.dlogits, a.cap});
}

}  // namespace attune::ops::cuda
