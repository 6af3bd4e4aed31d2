// Tiles of 16-bit rows in shared memory, and the products of a warp's 16 rows with them.
#pragma once

#include "ops/cuda/attention.h"
#include "ops/cuda/fragments.h"

namespace attune::ops::cuda {

inline constexpr int kTileThreads = 128, kTileOwn = 64, kWarpRows = 16;  // a block's four warps take 16 of its 64 rows each

// Rows lie 16 bytes further apart than they are long: eight rows of a matrix load touch all banks once.
template <int kDim>
inline constexpr int kStride = kDim + 8;

// The lane's place in sums: rows `row` and row + 8, columns `column` and column + 1 of each group of eight.
struct LanePlace {
  int row = static_cast<int>(lane()) / 4, column = static_cast<int>(lane()) % 4 * 2;
};

// Rows [first, first + kRows) of a head of `t`, zero beyond `end` and beyond d.
template <int kDim, int kRows>
__device__ void load_tile(const View& t, bool wide, int64_t row0, int64_t first, int64_t end, int64_t column, int64_t d, uint16_t* tile) {
  constexpr int kWords = kDim / kWide;
  for (int e = static_cast<int>(threadIdx.x); e < kRows * kWords; e += kTileThreads) {
    const int r = e / kWords, c = e % kWords * kWide;
    uint4 word = {0, 0, 0, 0};
    if (first + r < end) {
      const uint16_t* from = t.row<uint16_t>(row0 + first + r) + column + c;
      if (wide) {
        if (c < d) word = *reinterpret_cast<const uint4*>(from);
      } else {
        uint16_t x[kWide];
#pragma unroll
        for (int k = 0; k < kWide; ++k) x[k] = c + k < d ? from[k] : uint16_t{0};
        word = {x[0] | static_cast<uint32_t>(x[1]) << 16, x[2] | static_cast<uint32_t>(x[3]) << 16, x[4] | static_cast<uint32_t>(x[5]) << 16,
                x[6] | static_cast<uint32_t>(x[7]) << 16};
      }
    }
    *reinterpret_cast<uint4*>(tile + r * kStride<kDim> + c) = word;
  }
}

// s[16, kN] = own [16, kDim] · others [kN, kDim]ᵀ
template <class T, int kDim, int kN>
__device__ void multiply_rows(float (&s)[kN / 8][4], const uint16_t* own, const uint16_t* others) {
  const int l = static_cast<int>(lane());
  __syncwarp();  // tensor cores take a warp whose threads have come together
#pragma unroll
  for (int n = 0; n < kN / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t a[4];
    load_matrices(a, own + l % 16 * kStride<kDim> + k + l / 16 * 8);
#pragma unroll
    for (int n = 0; n < kN; n += 16) {
      uint32_t b[4];
      load_matrices(b, others + (n + l / 16 * 8 + l % 8) * kStride<kDim> + k + l / 8 % 2 * 8);
      multiply_add<T>(s[n / 8], a, b[0], b[1]);
      multiply_add<T>(s[n / 8 + 1], a, b[2], b[3]);
    }
  }
}

// sum[16, kColumns] += w [16, kN] · others [kN, first kColumns from `others` on]; w is rounded.
template <class T, int kDim, int kColumns, int kN>
__device__ void multiply_weights(float (&sum)[kColumns / 8][4], const float (&w)[kN / 8][4], const uint16_t* others) {
  const int l = static_cast<int>(lane());
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kN; k += 16) {
    const float(&left)[4] = w[k / 8], (&right)[4] = w[k / 8 + 1];
    const uint32_t a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]), pack<T>(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < kColumns; n += 16) {
      uint32_t b[4];
      load_transposed(b, others + (k + l / 8 % 2 * 8 + l % 8) * kStride<kDim> + n + l / 16 * 8);
      multiply_add<T>(sum[n / 8], a, b[0], b[1]);
      multiply_add<T>(sum[n / 8 + 1], a, b[2], b[3]);
    }
  }
}

// Two neighbouring numbers of a row, as far as the head reaches.
template <class T>
__device__ void store_pair(const View& t, bool wide, int64_t row, int64_t column, int64_t c, int64_t d, float x, float y) {
  uint16_t* to = t.row<uint16_t>(row) + column + c;
  const uint32_t both = pack<T>(x, y);
  if (wide) {
    if (c < d) *reinterpret_cast<uint32_t*>(to) = both;
    return;
  }
  if (c < d) to[0] = static_cast<uint16_t>(both);
  if (c + 1 < d) to[1] = static_cast<uint16_t>(both >> 16);
}

// The four lanes that share a row.
template <class Merge>
__device__ float quad_reduce(float x, Merge merge) {
  x = merge(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return merge(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

// f(T{}, kDim) for a 16-bit dtype and the least kDim that holds a head.
template <class F>
void with_tiles(DType dtype, int64_t d, F&& f) {
  const auto with_dim = [&](auto t) {
    if (d <= 64) f(t, std::integral_constant<int, 64>{});
    else if (d <= 128) f(t, std::integral_constant<int, 128>{});
    else f(t, std::integral_constant<int, 256>{});
  };
  if (dtype == DType::bf16) with_dim(BFloat16{});
  else with_dim(Float16{});
}

}  // namespace attune::ops::cuda
