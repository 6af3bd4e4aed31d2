// What every attention kernel shares: who sees whom, and what happens to a row of scores.
#pragma once

#include "ops/cpu/kernel.h"
#include "util/rng.h"

namespace attune::ops::cpu::ATTUNE_ISA {

struct Range {
  int64_t begin, end;
};

// Keys that query i (of lq) sees among lk.
[[gnu::always_inline]] inline Range visible(const AttentionShape& s, int64_t i, int64_t lq, int64_t lk) {
  if (!s.causal) return {0, lk};
  const int64_t last = i + lk - lq;
  const int64_t end = std::min(lk, std::max<int64_t>(0, last + 1));
  return {s.window > 0 ? std::min(end, std::max<int64_t>(0, last - s.window + 1)) : 0, end};
}

// Scales and caps a row of raw scores and adds the bias; only [begin, end) counts. `slope_of_cap` [lk], where
// there is a cap, receives its derivative; it may be null.
inline void finish_scores(const AttentionShape& s, int64_t head, int64_t i, int64_t lq, int64_t lk, Range r, float* row, float* slope_of_cap) {
  for (int64_t j = r.begin; j < r.end; ++j) row[j] *= s.scale;
  if (s.softcap > 0) {
    for (int64_t j = r.begin; j < r.end; ++j) {
      const float t = fast_tanh(row[j] / s.softcap);
      row[j] = s.softcap * t;
      if (slope_of_cap) slope_of_cap[j] = 1.0f - t * t;
    }
  }
  if (!s.alibi) return;
  const float slope = s.alibi[head];
  for (int64_t j = r.begin; j < r.end; ++j) row[j] += slope * static_cast<float>(j - i - (lk - lq));
}

// Multiplies row[begin, end) by the inverted dropout mask of (token, head, key).
inline void drop(const AttentionShape& s, int64_t token, int64_t head, Range r, float* row) {
  const uint64_t key = mix_key(s.dropout_key, static_cast<uint64_t>(head));
  const auto sample = static_cast<uint64_t>(s.sample_ids.as<int64_t>()[token]);
  const auto position = static_cast<uint64_t>(s.positions.as<int32_t>()[token]) << 32;
  const float keep = 1.0f / (1.0f - s.dropout);
  for (int64_t block = r.begin / 4; block * 4 < r.end; ++block) {
    const PhiloxBlock words = philox(key, sample, position | static_cast<uint64_t>(block));
    for (int64_t j = std::max(r.begin, block * 4); j < std::min(r.end, block * 4 + 4); ++j)
      row[j] *= uniform_float(words[static_cast<size_t>(j - block * 4)]) >= s.dropout ? keep : 0.0f;
  }
}

struct Sequence {
  int64_t q0, lq, k0, lk;
};
[[gnu::always_inline]] inline Sequence sequence(const Tensor& cu_q, const Tensor& cu_k, int64_t s) {
  const auto *q = cu_q.as<int32_t>(), *k = cu_k.as<int32_t>();
  return {q[s], q[s + 1] - q[s], k[s], k[s + 1] - k[s]};
}

// Keys that any query of the tile [t, t+rows) sees end here.
[[gnu::always_inline]] inline int64_t tile_keys(const AttentionShape& s, int64_t t, int64_t rows, int64_t lq, int64_t lk) {
  return visible(s, t + rows - 1, lq, lk).end;
}

// Kernels with bf16 matrix work, for bf16 tensors where the processor has it.
namespace attention_bf16 {
bool can(const AttentionForward&);
bool can(const AttentionBackward&);
int64_t workspace(const AttentionShape&, bool backward);  // f32 elements a thread
void forward(const AttentionForward&);
void backward(const AttentionBackward&);
}  // namespace attention_bf16

}  // namespace attune::ops::cpu::ATTUNE_ISA
