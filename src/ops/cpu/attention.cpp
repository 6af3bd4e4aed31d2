#include "ops/blas/onednn.h"
#include "ops/cpu/attention_rows.h"

// One unit of work is a head of a sequence (forward) or a k/v head with all its query heads (backward, so that dK and
// dV have one owner and one order of summation). Tiles of queries meet all visible keys at once; the products run on
// the calling thread.
namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr int64_t kTile = 64;

void load(const Tensor& t, int64_t row, int64_t col, int64_t rows, int64_t cols, float* out) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < rows; ++i) {
      const T* from = t.row<T>(row + i) + col;
      for (int64_t j = 0; j < cols; ++j) out[i * cols + j] = to_float(from[j]);
    }
  });
}

void store(const float* in, int64_t rows, int64_t cols, const Tensor& t, int64_t row, int64_t col) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < rows; ++i) {
      T* to = t.row<T>(row + i) + col;
      for (int64_t j = 0; j < cols; ++j) to[j] = from_float<T>(in[i * cols + j]);
    }
  });
}

// Turns scores into probabilities in place and returns the row's LSE; everything outside of r is zero.
float softmax_row(float* row, Range r, int64_t width) {
  std::fill(row, row + r.begin, 0.0f);
  std::fill(row + r.end, row + width, 0.0f);
  if (r.begin == r.end) return -std::numeric_limits<float>::infinity();
  float highest = row[r.begin];
#pragma omp simd reduction(max : highest)
  for (int64_t j = r.begin; j < r.end; ++j) highest = std::max(highest, row[j]);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = r.begin; j < r.end; ++j) {
    row[j] = fast_exp(row[j] - highest);
    sum += row[j];
  }
  const float inverse = 1.0f / sum;
  for (int64_t j = r.begin; j < r.end; ++j) row[j] *= inverse;
  return highest + std::log(sum);
}

}  // namespace

int64_t attention_workspace(const AttentionShape& s, bool backward) {
  const int64_t d = s.head_dim, rows = std::min(kTile, s.max_q);
  const int64_t per_thread = backward ? 4 * s.max_k * d + 3 * rows * d + 2 * rows * s.max_k + (s.softcap > 0 ? s.max_k : 0)
                                      : 2 * s.max_k * d + 2 * rows * d + rows * s.max_k;
  return std::max(per_thread, attention_bf16::workspace(s, backward)) * omp_get_max_threads();
}

void attention_forward(const AttentionForward& a) {
  if (attention_bf16::can(a)) return attention_bf16::forward(a);
  const AttentionShape& s = a.shape;
  const int64_t d = s.head_dim, group = s.heads / s.kv_heads, sequences = a.cu_q.cols - 1;
  const int64_t rows_max = std::min(kTile, s.max_q);
  const int64_t per_thread = a.workspace.cols / omp_get_max_threads();
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t unit = 0; unit < sequences * s.heads; ++unit) {
    const Sequence q = sequence(a.cu_q, a.cu_k, unit / s.heads);
    const int64_t head = unit % s.heads, kv = head / group;
    float* k = a.workspace.as<float>() + omp_get_thread_num() * per_thread;
    float* v = k + s.max_k * d;
    float* tile_q = v + s.max_k * d;
    float* out = tile_q + rows_max * d;
    float* scores = out + rows_max * d;
    load(a.k, q.k0, kv * d, q.lk, d, k);
    load(a.v, q.k0, kv * d, q.lk, d, v);
    for (int64_t t = 0; t < q.lq; t += rows_max) {
      const int64_t rows = std::min(rows_max, q.lq - t), keys = tile_keys(s, t, rows, q.lq, q.lk);
      load(a.q, q.q0 + t, head * d, rows, d, tile_q);
      if (keys > 0) onednn::sgemm(false, true, rows, keys, d, tile_q, d, k, d, false, scores, keys);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = scores + i * keys;
        const Range r = visible(s, t + i, q.lq, q.lk);
        finish_scores(s, head, t + i, q.lq, q.lk, r, row, nullptr);
        a.lse.row<float>(q.q0 + t + i)[head] = softmax_row(row, r, keys);
        if (s.dropout > 0) drop(s, q.q0 + t + i, head, r, row);
      }
      if (keys > 0) onednn::sgemm(false, false, rows, d, keys, scores, keys, v, d, false, out, d);
      else std::fill(out, out + rows * d, 0.0f);
      store(out, rows, d, a.out, q.q0 + t, head * d);
    }
  }
}

void attention_backward(const AttentionBackward& a) {
  if (attention_bf16::can(a)) return attention_bf16::backward(a);
  const AttentionShape& s = a.shape;
  const int64_t d = s.head_dim, group = s.heads / s.kv_heads, sequences = a.cu_q.cols - 1;
  const int64_t rows_max = std::min(kTile, s.max_q);
  const int64_t per_thread = a.workspace.cols / omp_get_max_threads();
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t unit = 0; unit < sequences * s.kv_heads; ++unit) {
    const Sequence q = sequence(a.cu_q, a.cu_k, unit / s.kv_heads);
    const int64_t kv = unit % s.kv_heads;
    float* k = a.workspace.as<float>() + omp_get_thread_num() * per_thread;
    float* v = k + s.max_k * d;
    float* dk = v + s.max_k * d;
    float* dv = dk + s.max_k * d;
    float* tile_q = dv + s.max_k * d;
    float* dout = tile_q + rows_max * d;
    float* dq = dout + rows_max * d;
    float* p = dq + rows_max * d;
    float* dp = p + rows_max * s.max_k;
    float* slope_of_cap = s.softcap > 0 ? dp + rows_max * s.max_k : nullptr;
    load(a.k, q.k0, kv * d, q.lk, d, k);
    load(a.v, q.k0, kv * d, q.lk, d, v);
    std::fill(dk, dk + q.lk * d, 0.0f);
    std::fill(dv, dv + q.lk * d, 0.0f);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      for (int64_t t = 0; t < q.lq; t += rows_max) {
        const int64_t rows = std::min(rows_max, q.lq - t), keys = tile_keys(s, t, rows, q.lq, q.lk);
        load(a.q, q.q0 + t, head * d, rows, d, tile_q);
        load(a.dout, q.q0 + t, head * d, rows, d, dout);
        if (keys == 0) {
          std::fill(dq, dq + rows * d, 0.0f);
          store(dq, rows, d, a.dq, q.q0 + t, head * d);
          continue;
        }
        onednn::sgemm(false, true, rows, keys, d, tile_q, d, k, d, false, p, keys);
        onednn::sgemm(false, true, rows, keys, d, dout, d, v, d, false, dp, keys);
        for (int64_t i = 0; i < rows; ++i) {
          const Range r = visible(s, t + i, q.lq, q.lk);
          float* pr = p + i * keys;
          float* dr = dp + i * keys;
          finish_scores(s, head, t + i, q.lq, q.lk, r, pr, slope_of_cap);
          const float lse = a.lse.row<float>(q.q0 + t + i)[head];
          std::fill(pr, pr + r.begin, 0.0f);
          std::fill(pr + r.end, pr + keys, 0.0f);
          std::fill(dr, dr + r.begin, 0.0f);
          std::fill(dr + r.end, dr + keys, 0.0f);
          for (int64_t j = r.begin; j < r.end; ++j) pr[j] = fast_exp(pr[j] - lse);
          if (s.dropout > 0) drop(s, q.q0 + t + i, head, r, dr);
          // The row is here as a whole, so Σ P∘dP is taken from it: rowsum(dO∘O) would bring in O's rounding, which
          // the gradient of a key bias (a sum that nearly cancels) does not forgive.
          float dsum = 0;
#pragma omp simd reduction(+ : dsum)
          for (int64_t j = r.begin; j < r.end; ++j) dsum += pr[j] * dr[j];
          for (int64_t j = r.begin; j < r.end; ++j) dr[j] = pr[j] * (dr[j] - dsum) * s.scale;
          if (slope_of_cap)
            for (int64_t j = r.begin; j < r.end; ++j) dr[j] *= slope_of_cap[j];
          if (s.dropout > 0) drop(s, q.q0 + t + i, head, r, pr);
        }
        onednn::sgemm(true, false, keys, d, rows, p, keys, dout, d, true, dv, d);
        onednn::sgemm(true, false, keys, d, rows, dp, keys, tile_q, d, true, dk, d);
        onednn::sgemm(false, false, rows, d, keys, dp, keys, k, d, false, dq, d);
        store(dq, rows, d, a.dq, q.q0 + t, head * d);
      }
    }
    store(dk, q.lk, d, a.dk, q.k0, kv * d);
    store(dv, q.lk, d, a.dv, q.k0, kv * d);
  }
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
