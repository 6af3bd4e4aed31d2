#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

// A warp an output row: lane by lane, w_j + Σ_k f_k·a_kj is made for a column (or eight) and squared.
template <int N>
__global__ void __launch_bounds__(kThreads) adapted_norms(View weight, View a, View b, int64_t rows, int64_t cols, int64_t rank, float scale, View out) {
  const int64_t i = warp_row();
  if (i >= rows) return;
  float sum = 0;
  for (int64_t j = lane() * N; j < cols; j += kWarp * N) {
    float x[N];
    load(weight, i, j, x);
    for (int64_t k = 0; k < rank; ++k) {
      const float factor = scale * element(b, i, k);
      float row[N];
      load(a, k, j, row);
#pragma unroll
      for (int l = 0; l < N; ++l) x[l] += factor * row[l];
    }
#pragma unroll
    for (int l = 0; l < N; ++l) sum += x[l] * x[l];
  }
  sum = warp_sum(sum);
  if (lane() == 0) put(sqrtf(sum), out, 0, i);
}

// m/norm, and 1/norm; 0 for a row of zeros.
struct Gain {
  View magnitude, norms;
  __device__ float operator()(int64_t j) const {
    const float norm = element(norms, 0, j);
    return norm > 0 ? element(magnitude, 0, j) / norm : 0.0f;
  }
  __device__ float inverse(int64_t j) const {
    const float norm = element(norms, 0, j);
    return norm > 0 ? 1.0f / norm : 0.0f;
  }
};

// The dispatcher's workspace for the gains stays unused: every element finds its own.
struct Multiply {
  View x, y;
  Gain gain;
  bool accumulate;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float value[N], before[N] = {};
    load(x, row, col, value);
    if (accumulate) load(y, row, col, before);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = before[i] + value[i] * gain(col + i);
    store(value, y, row, col);
  }
};

// A block takes 32 columns, its eight warps every eighth row; their sums are added in order.
__global__ void __launch_bounds__(kThreads) magnitude_gradient(View dy, View x, int64_t rows, int64_t cols, Gain gain, View out, bool accumulate) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float sums[kWarps][kWarp];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarp + lane(), warp = threadIdx.x / kWarp;
  float sum = 0;
  if (j < cols)
    for (int64_t i = warp; i < rows; i += kWarps) sum += element(dy, i, j) * element(x, i, j);
  sums[warp][lane()] = sum;
  __syncthreads();
  if (warp != 0 || j >= cols) return;
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w][lane()];
  put(total * gain.inverse(j) + (accumulate ? element(out, 0, j) : 0.0f), out, 0, j);
}

}  // namespace

void adapted_row_norms(const AdaptedRowNorms& a) {
  const int64_t rows = a.weight.rows.count, cols = a.weight.cols;
  launch("adapted_row_norms", warp_rows(rows), wide(cols, {a.weight, a.a}) ? adapted_norms<kWide> : adapted_norms<1>, a.weight, a.a, a.b, rows, cols,
         a.a.rows.count, a.scale, a.out);
}

void magnitude_forward(const MagnitudeForward& a) {
  over_elements("magnitude_forward", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x, a.y}), Multiply{a.x, a.y, {a.magnitude, a.norms}, a.accumulate});
}

void magnitude_backward(const MagnitudeBackward& a) {
  const Gain gain{a.magnitude, a.norms};
  // First: dx may overwrite dy.
  if (a.dmagnitude.defined())
    launch("magnitude_backward", {{blocks(a.dy.cols, kWarp), 1, 1}, {kThreads, 1, 1}}, magnitude_gradient, a.dy, a.x, a.dy.rows.count, a.dy.cols, gain,
           a.dmagnitude, a.accumulate);
  over_elements("magnitude_backward", a.dy.rows.count, a.dy.cols, wide(a.dy.cols, {a.dy, a.dx}), Multiply{a.dy, a.dx, gain, false});
}

}  // namespace attune::ops::cuda
