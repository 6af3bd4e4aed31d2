#include "ops/cuda/attention_tiles.h"

namespace attune::ops::cuda {
namespace {

template <int kDim>
inline constexpr int kOthers = kDim > 128 ? 16 : 32;  // rows of the other side that are met at once

// dQ of 64 queries, and Σ P∘dP of each: a first pass over the keys sums that up.
template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) queries(AttentionTask a) {
  constexpr int kN = kOthers<kDim>;
  const Spot s = find_spot(a, a.cu_q, kTileOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t head = blockIdx.y, kv = head / a.group();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, own = warp * kWarpRows * kStride<kDim>;
  const LanePlace at;
  uint16_t* q = shared_memory<uint16_t>();
  uint16_t* dout = q + kTileOwn * kStride<kDim>;
  uint16_t* k = dout + kTileOwn * kStride<kDim>;
  uint16_t* v = k + kN * kStride<kDim>;
  load_tile<kDim, kTileOwn>(a.q, a.wide, s.q0, s.first, s.lq, head * a.d, a.d, q);
  load_tile<kDim, kTileOwn>(a.dout, a.wide, s.q0, s.first, s.lq, head * a.d, a.d, dout);
  const int64_t row = s.first + warp * kWarpRows + at.row;  // and row + 8
  const Range keys = keys_of(a, s, s.first, kTileOwn);
  float lse[2], delta[2] = {}, dq[kDim / 8][4] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) lse[h] = row + 8 * h < s.lq ? element(a.lse, s.q0 + row + 8 * h, head) * kLog2e : 0.0f;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kN) {
      __syncthreads();
      load_tile<kDim, kN>(a.k, a.wide, s.k0, j0, s.lk, kv * a.d, a.d, k);
      load_tile<kDim, kN>(a.v, a.wide, s.k0, j0, s.lk, kv * a.d, a.d, v);
      __syncthreads();
      float p[kN / 8][4], dp[kN / 8][4];
      multiply_rows<T, kDim, kN>(p, q + own, k);
      multiply_rows<T, kDim, kN>(dp, dout + own, v);
#pragma unroll
      for (int n = 0; n < kN / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t i = row + e / 2 * 8, j = j0 + n * 8 + at.column + e % 2;
          float ds = 0;
          if (sees(a, s, i, j)) {
            float slope;
            const float weight = exp2f(finish_score(a, s, head, i, j, p[n][e], slope) * kLog2e - lse[e / 2]);
            const float gradient = a.dropout > 0 ? dp[n][e] * kept(a, s.q0 + i, head, j) : dp[n][e];
            if (pass == 0) delta[e / 2] += weight * gradient;
            ds = weight * (gradient - delta[e / 2]) * a.scale * slope;
          }
          p[n][e] = ds;
        }
      if (pass == 1) multiply_weights<T, kDim, kDim, kN>(dq, p, k);
    }
    if (pass == 0)
      for (float& x : delta) x = quad_reduce(x, Sum{});
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t i = row + 8 * h;
    if (i >= s.lq) continue;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      store_pair<T>(a.dq, a.wide, s.q0 + i, head * a.d, n * 8 + at.column, a.d, dq[n][2 * h], dq[n][2 * h + 1]);
    if (at.column == 0) a.delta[(s.q0 + i) * a.heads + head] = delta[h];
  }
}

// dK and dV of 64 keys, from all queries of all heads that read them. Scores are transposed here: a warp's rows are keys. Of wide heads
// half of the columns are summed up at a time, so that sums stay in registers.
template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) keys(AttentionTask a) {
  constexpr int kN = kOthers<kDim>, kColumns = kDim > 128 ? 128 : kDim;
  const Spot s = find_spot(a, a.cu_k, kTileOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t kv = blockIdx.y;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, own = warp * kWarpRows * kStride<kDim>;
  const LanePlace at;
  uint16_t* k = shared_memory<uint16_t>();
  uint16_t* v = k + kTileOwn * kStride<kDim>;
  uint16_t* q = v + kTileOwn * kStride<kDim>;
  uint16_t* dout = q + kN * kStride<kDim>;
  auto* lse = reinterpret_cast<float*>(dout + kN * kStride<kDim>);
  float* delta = lse + kN;
  load_tile<kDim, kTileOwn>(a.k, a.wide, s.k0, s.first, s.lk, kv * a.d, a.d, k);
  load_tile<kDim, kTileOwn>(a.v, a.wide, s.k0, s.first, s.lk, kv * a.d, a.d, v);
  const int64_t row = s.first + warp * kWarpRows + at.row;  // and row + 8
  const Range rows = queries_of(a, s, s.first, kTileOwn);
  for (int c0 = 0; c0 < kDim; c0 += kColumns) {
    float dk[kColumns / 8][4] = {}, dv[kColumns / 8][4] = {};
    for (int64_t head = kv * a.group(); head < (kv + 1) * a.group(); ++head)
      for (int64_t i0 = rows.begin; i0 < rows.end; i0 += kN) {
        __syncthreads();
        load_tile<kDim, kN>(a.q, a.wide, s.q0, i0, s.lq, head * a.d, a.d, q);
        load_tile<kDim, kN>(a.dout, a.wide, s.q0, i0, s.lq, head * a.d, a.d, dout);
        if (const int64_t i = i0 + threadIdx.x; threadIdx.x < kN && i < s.lq) {
          lse[threadIdx.x] = element(a.lse, s.q0 + i, head) * kLog2e;
          delta[threadIdx.x] = a.delta[(s.q0 + i) * a.heads + head];
        }
        __syncthreads();
        float p[kN / 8][4], ds[kN / 8][4];
        multiply_rows<T, kDim, kN>(p, k + own, q);
        multiply_rows<T, kDim, kN>(ds, v + own, dout);
#pragma unroll
        for (int n = 0; n < kN / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int place = n * 8 + at.column + e % 2;
            const int64_t i = i0 + place, j = row + e / 2 * 8;
            float weight = 0, value = 0;
            if (sees(a, s, i, j)) {
              float slope;
              const float probability = exp2f(finish_score(a, s, head, i, j, p[n][e], slope) * kLog2e - lse[place]);
              const float mask = a.dropout > 0 ? kept(a, s.q0 + i, head, j) : 1.0f;
              weight = probability * mask;
              value = probability * (ds[n][e] * mask - delta[place]) * a.scale * slope;
            }
            p[n][e] = weight;
            ds[n][e] = value;
          }
        multiply_weights<T, kDim, kColumns, kN>(dv, p, dout + c0);
        multiply_weights<T, kDim, kColumns, kN>(dk, ds, q + c0);
      }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t j = row + 8 * h;
      if (j >= s.lk) continue;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const int c = c0 + n * 8 + at.column;
        store_pair<T>(a.dk, a.wide, s.k0 + j, kv * a.d, c, a.d, dk[n][2 * h], dk[n][2 * h + 1]);
        store_pair<T>(a.dv, a.wide, s.k0 + j, kv * a.d, c, a.d, dv[n][2 * h], dv[n][2 * h + 1]);
      }
    }
  }
}

template <int kDim>
size_t shared_bytes() {
  return static_cast<size_t>((2 * kTileOwn + 2 * kOthers<kDim>) * kStride<kDim>) * sizeof(uint16_t) + 2 * kOthers<kDim> * sizeof(float);
}

}  // namespace

void attention_tiles_queries(const AttentionTask& a, DType dtype) {
  with_tiles(dtype, a.d, [&](auto t, auto dim) {
    launch("attention_backward", {{spots(a.rows_q, a.sequences, kTileOwn), static_cast<unsigned>(a.heads), 1}, {kTileThreads, 1, 1}, shared_bytes<dim.value>()},
           queries<decltype(t), dim.value>, a);
  });
}

void attention_tiles_keys(const AttentionTask& a, DType dtype) {
  with_tiles(dtype, a.d, [&](auto t, auto dim) {
    launch("attention_backward", {{spots(a.rows_k, a.sequences, kTileOwn), static_cast<unsigned>(a.kv_heads), 1}, {kTileThreads, 1, 1}, shared_bytes<dim.value>()},
           keys<decltype(t), dim.value>, a);
  });
}

}  // namespace attune::ops::cuda
