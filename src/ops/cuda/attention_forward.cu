#include "ops/cuda/attention_tiles.h"

namespace attune::ops::cuda {
namespace {

template <int kDim>
inline constexpr int kKeys = kDim > 128 ? 32 : 64;  // met at once

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) forward(AttentionTask a) {
  constexpr int kN = kKeys<kDim>;
  const Spot s = find_spot(a, a.cu_q, kTileOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t head = blockIdx.y, kv = head / a.group();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const LanePlace at;
  uint16_t* q = shared_memory<uint16_t>();
  uint16_t* k = q + kTileOwn * kStride<kDim>;
  uint16_t* v = k + kN * kStride<kDim>;
  load_tile<kDim, kTileOwn>(a.q, a.wide, s.q0, s.first, s.lq, head * a.d, a.d, q);
  const int64_t row = s.first + warp * kWarpRows + at.row;  // and row + 8
  const Range keys = keys_of(a, s, s.first, kTileOwn);
  float out[kDim / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kN) {
    __syncthreads();
    load_tile<kDim, kN>(a.k, a.wide, s.k0, j0, s.lk, kv * a.d, a.d, k);
    load_tile<kDim, kN>(a.v, a.wide, s.k0, j0, s.lk, kv * a.d, a.d, v);
    __syncthreads();
    float w[kN / 8][4], higher[2] = {highest[0], highest[1]};
    multiply_rows<T, kDim, kN>(w, q + warp * kWarpRows * kStride<kDim>, k);
#pragma unroll
    for (int n = 0; n < kN / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t i = row + e / 2 * 8, j = j0 + n * 8 + at.column + e % 2;
        float slope;
        w[n][e] = sees(a, s, i, j) ? finish_score(a, s, head, i, j, w[n][e], slope) * kLog2e : -INFINITY;
        higher[e / 2] = fmaxf(higher[e / 2], w[n][e]);
      }
    float base[2], shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      higher[h] = quad_reduce(higher[h], Highest{});
      base[h] = higher[h] == -INFINITY ? 0.0f : higher[h];
      shrink[h] = exp2f(highest[h] - base[h]);
      highest[h] = higher[h];
      sum[h] *= shrink[h];
    }
#pragma unroll
    for (int n = 0; n < kN / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        w[n][e] = exp2f(w[n][e] - base[e / 2]);
        sum[e / 2] += w[n][e];
        if (a.dropout > 0 && w[n][e] > 0) w[n][e] *= kept(a, s.q0 + row + e / 2 * 8, head, j0 + n * 8 + at.column + e % 2);
      }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
    multiply_weights<T, kDim, kDim, kN>(out, w, v);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t i = row + 8 * h;
    const float total = quad_reduce(sum[h], Sum{}), inverse = total > 0 ? 1.0f / total : 0.0f;
    if (i >= s.lq) continue;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      store_pair<T>(a.out, a.wide, s.q0 + i, head * a.d, n * 8 + at.column, a.d, out[n][2 * h] * inverse, out[n][2 * h + 1] * inverse);
    if (at.column == 0) put(total > 0 ? highest[h] * kLn2 + logf(total) : -INFINITY, a.lse, s.q0 + i, head);
  }
}

}  // namespace

void attention_tiles_forward(const AttentionTask& a, DType dtype) {
  with_tiles(dtype, a.d, [&](auto t, auto dim) {
    constexpr int kDim = dim.value;
    const size_t shared = static_cast<size_t>((kTileOwn + 2 * kKeys<kDim>) * kStride<kDim>) * sizeof(uint16_t);
    launch("attention_forward", {{spots(a.rows_q, a.sequences, kTileOwn), static_cast<unsigned>(a.heads), 1}, {kTileThreads, 1, 1}, shared},
           forward<decltype(t), kDim>, a);
  });
}

}  // namespace attune::ops::cuda
