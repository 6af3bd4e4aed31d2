#include "ops/cuda/partial_sums.h"

namespace attune::ops::cuda {
namespace {

constexpr int64_t kRowsOfPart = 16;  // at least

__global__ void __launch_bounds__(kThreads) sum_columns(int64_t rows, int64_t cols, Summand summand, float* partial, int64_t stride) {
  const int64_t part = blockIdx.y, parts = gridDim.y, j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= cols) return;
  float sum = 0;
  for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; ++i) sum += summand(i, j);
  partial[part * stride + j] = sum;
}

// A block takes 32 columns, its eight warps every eighth part.
__global__ void __launch_bounds__(kThreads) add_in_order(const float* partial, int64_t stride, int64_t parts, View out, int64_t cols, bool accumulate) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float sums[kWarps][kWarp];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarp + lane(), warp = threadIdx.x / kWarp;
  float sum = 0;
  if (j < cols)
    for (int64_t p = warp; p < parts; p += kWarps) sum += partial[p * stride + j];
  sums[warp][lane()] = sum;
  __syncthreads();
  if (warp != 0 || j >= cols) return;
  float total = accumulate ? element(out, 0, j) : 0.0f;
  for (int w = 0; w < kWarps; ++w) total += sums[w][lane()];
  put(total, out, 0, j);
}

}  // namespace

int64_t column_sums(const char* op, int64_t rows, int64_t cols, const Summand& summand, const Tensor& partial) {
  const int64_t parts = std::clamp<int64_t>(rows / kRowsOfPart, 1, partial.rows.count);
  launch(op, {{blocks(cols, kThreads), static_cast<unsigned>(parts), 1}, {kThreads, 1, 1}}, sum_columns, rows, cols, summand, partial.as<float>(), partial.stride);
  return parts;
}

void add_parts(const char* op, const Tensor& partial, int64_t parts, const Tensor& out, bool accumulate) {
  launch(op, {{blocks(out.cols, kWarp), 1, 1}, {kThreads, 1, 1}}, add_in_order, partial.as<float>(), partial.stride, parts, out, out.cols, accumulate);
}

}  // namespace attune::ops::cuda
