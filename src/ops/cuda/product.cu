#include "ops/cuda/gemm_plan.h"
#include "ops/cuda/kernel.h"

namespace attune::ops::cuda {
namespace {

// A block makes a tile of C, a thread 4 × 4 numbers of it, 16 apart.
constexpr int kTile = 64, kDepth = 16, kSide = 16, kEach = kTile / kSide;

struct Sides {
  View a, b, c;  // row j of a view is column j of the matrix
  bool transpose_a, transpose_b, accumulate;
  int64_t m, n, k;
};

__global__ void __launch_bounds__(kThreads) product(Sides s) {
  __shared__ float left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kTile, j0 = static_cast<int64_t>(blockIdx.y) * kTile;
  float sum[kEach][kEach] = {};
  for (int64_t l0 = 0; l0 < s.k; l0 += kDepth) {
    for (int t = threadIdx.x; t < kTile * kDepth; t += kThreads) {
      // Neighbouring threads read neighbouring numbers.
      const int la = s.transpose_a ? t % kDepth : t / kTile, ia = s.transpose_a ? t / kDepth : t % kTile;
      const int lb = s.transpose_b ? t / kTile : t % kDepth, jb = s.transpose_b ? t % kTile : t / kDepth;
      const int64_t i = i0 + ia, j = j0 + jb;
      left[la][ia] = i < s.m && l0 + la < s.k ? (s.transpose_a ? element(s.a, i, l0 + la) : element(s.a, l0 + la, i)) : 0.0f;
      right[lb][jb] = j < s.n && l0 + lb < s.k ? (s.transpose_b ? element(s.b, l0 + lb, j) : element(s.b, j, l0 + lb)) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int l = 0; l < kDepth; ++l) {
      float a[kEach], b[kEach];
#pragma unroll
      for (int e = 0; e < kEach; ++e) a[e] = left[l][x + e * kSide], b[e] = right[l][y + e * kSide];
#pragma unroll
      for (int p = 0; p < kEach; ++p)
#pragma unroll
        for (int q = 0; q < kEach; ++q) sum[p][q] += a[p] * b[q];
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < kEach; ++p)
#pragma unroll
    for (int q = 0; q < kEach; ++q) {
      const int64_t i = i0 + x + p * kSide, j = j0 + y + q * kSide;
      if (i < s.m && j < s.n) put(sum[p][q] + (s.accumulate ? element(s.c, j, i) : 0.0f), s.c, j, i);
    }
}

View view_of(const Operand& o) {
  View v;
  v.data = o.data, v.stride = o.leading, v.dtype = o.dtype;
  return v;
}

}  // namespace

void multiply_plainly(const Product& p) {
  launch("gemm", {{blocks(p.m, kTile), blocks(p.n, kTile), 1}, {kThreads, 1, 1}}, product,
         Sides{view_of(p.a), view_of(p.b), view_of(p.c), p.a.transpose, p.b.transpose, p.accumulate, p.m, p.n, p.k});
}

}  // namespace attune::ops::cuda
