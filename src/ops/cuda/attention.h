// What the attention kernels share: where a block works, who sees whom, and what happens to a score.
//
// Forward takes tiles of queries and meets the keys they see tile by tile with a running maximum (Dao et al. 2022). Backward is two
// kernels, so that every sum has one owner and one order: tiles of queries make dQ and Σ P∘dP of each row, tiles of keys make dK and dV
// from these. Σ P∘dP is summed up from the row itself in a pass of its own, not taken as rowsum(dO∘O): that would bring in the
// rounding of O, which the gradient of a key bias, a sum that nearly cancels, does not forgive (docs/architecture.md).
#pragma once

#include "ops/attention.h"
#include "ops/cuda/kernel.h"

namespace attune::ops::cuda {

inline constexpr int64_t kMostHeads = 256, kMostHeadDim = 256;
inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct AttentionTask {
  View q, k, v, out, dout, dq, dk, dv, lse;
  float* delta;  // [Nq, H]: Σ P∘dP of each row
  const int32_t *cu_q, *cu_k;
  int64_t sequences, heads, kv_heads, d;
  int64_t rows_q, rows_k;
  bool wide;  // rows of all tensors are whole 16-byte words
  float scale, softcap;
  bool causal, has_alibi;
  int64_t window;
  float dropout, keep;
  uint64_t dropout_key;
  const int64_t* samples;
  const int32_t* positions;
  float alibi[kMostHeads];  // by value: the slopes lie on the host

  __device__ int64_t group() const { return heads / kv_heads; }
};

// A tile of a sequence: its rows of q or of k.
struct Spot {
  int64_t q0, lq, k0, lk;
  int64_t first;  // row of the tile within the sequence
  bool there;
  __device__ int64_t shift() const { return lk - lq; }
};

// The spot of a block, where `cu` (cu_q or cu_k) says which rows are cut into tiles. A warp looks through 32 sequences at once; the
// grid has room for a part of a tile in every sequence, so some blocks find nothing.
__device__ inline Spot find_spot(const AttentionTask& a, const int32_t* cu, int32_t tile, int32_t block) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int me = static_cast<int>(lane());
  int32_t passed = 0;
  for (int64_t s0 = 0; s0 < a.sequences; s0 += kWarp) {
    const int64_t s = s0 + me;
    const int32_t tiles = s < a.sequences ? (cu[s + 1] - cu[s] + tile - 1) / tile : 0;
    int32_t sum = tiles;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int32_t below = __shfl_up_sync(kAll, sum, static_cast<unsigned>(offset));
      if (me >= offset) sum += below;
    }
    const unsigned beyond = __ballot_sync(kAll, block < passed + sum);
    if (beyond) {
      const int who = __ffs(static_cast<int>(beyond)) - 1;
      const int32_t begin = passed + __shfl_sync(kAll, sum - tiles, who);
      const int64_t found = s0 + who;
      return {a.cu_q[found], a.cu_q[found + 1] - a.cu_q[found], a.cu_k[found], a.cu_k[found + 1] - a.cu_k[found],
              static_cast<int64_t>(block - begin) * tile, true};
    }
    passed += __shfl_sync(kAll, sum, kWarp - 1);
  }
  return {0, 0, 0, 0, 0, false};
}
inline unsigned spots(int64_t rows, int64_t sequences, int64_t tile) { return rows == 0 ? 0 : static_cast<unsigned>(rows / tile + sequences); }

struct Range {
  int64_t begin, end;
};

__device__ inline bool sees(const AttentionTask& a, const Spot& s, int64_t i, int64_t j) {
  if (i >= s.lq || j >= s.lk) return false;
  if (!a.causal) return true;
  const int64_t last = i + s.shift();
  return j <= last && (a.window == 0 || j > last - a.window);
}

// Keys that any of the queries [i, i + n) sees.
__device__ inline Range keys_of(const AttentionTask& a, const Spot& s, int64_t i, int64_t n) {
  if (!a.causal) return {0, s.lk};
  const int64_t last = min(i + n, s.lq) - 1 + s.shift(), end = min(s.lk, max(int64_t{0}, last + 1));
  return {a.window > 0 ? min(end, max(int64_t{0}, i + s.shift() - a.window + 1)) : 0, end};
}

// Queries that see any of the keys [j, j + n).
__device__ inline Range queries_of(const AttentionTask& a, const Spot& s, int64_t j, int64_t n) {
  if (!a.causal) return {0, s.lq};
  const int64_t begin = min(s.lq, max(int64_t{0}, j - s.shift()));
  const int64_t last_key = min(j + n, s.lk) - 1;
  return {begin, a.window > 0 ? max(begin, min(s.lq, last_key + a.window - s.shift())) : s.lq};
}

// Scaled, capped, with bias; `slope` is the cap's derivative.
__device__ inline float finish_score(const AttentionTask& a, const Spot& s, int64_t head, int64_t i, int64_t j, float raw, float& slope) {
  float score = raw * a.scale;
  slope = 1;
  if (a.softcap > 0) {
    const float t = tanhf(score / a.softcap);
    score = a.softcap * t;
    slope = 1.0f - t * t;
  }
  if (a.has_alibi) score += a.alibi[head] * static_cast<float>(j - i - s.shift());
  return score;
}

// The inverted dropout mask of (token, head, key): 1/(1−p) or 0.
__device__ inline float kept(const AttentionTask& a, int64_t token, int64_t head, int64_t j) {
  const uint64_t key = mix_key(a.dropout_key, static_cast<uint64_t>(head));
  const PhiloxBlock words = philox(key, static_cast<uint64_t>(a.samples[token]), static_cast<uint64_t>(a.positions[token]) << 32 | static_cast<uint64_t>(j / 4));
  return uniform_float(words[static_cast<size_t>(j % 4)]) >= a.dropout ? a.keep : 0.0f;
}

// By fp32 arithmetic, for any mixture of dtypes; and on tensor cores, for tensors of one 16-bit dtype.
void attention_plain_forward(const AttentionTask&);
void attention_plain_queries(const AttentionTask&);  // dQ and delta
void attention_plain_keys(const AttentionTask&);     // dK and dV
void attention_tiles_forward(const AttentionTask&, DType);
void attention_tiles_queries(const AttentionTask&, DType);
void attention_tiles_keys(const AttentionTask&, DType);

}  // namespace attune::ops::cuda
