#include <utility>

#include "ops/cpu/attention_rows.h"
#include "ops/cpu/tile.h"

// Attention with bf16 matrix work (vdpbf16ps) and fp32 softmax. Units of work are those of attention.cpp. Keys and
// values are packed once a unit; a tile of queries meets all keys that it sees, its scores stay in the second-level
// cache, and probabilities and dS are rounded to bf16 in place, on the first half of their fp32 row.
namespace attune::ops::cpu::ATTUNE_ISA::attention_bf16 {

#if defined(__AVX512BF16__)

namespace {

using namespace tile;

constexpr int64_t kForwardRows = 48, kBackwardRows = 96;

// Pieces of a thread's workspace, in f32 elements, each a whole number of cache lines.
struct Layout {
  explicit Layout(const AttentionShape& s)
      : d(s.head_dim), keys(round_up(s.max_k, kColumns)), by_key(round_up(words<BFloat16>(d) * keys, 16)),
        by_column(words<BFloat16>(keys) * round_up(d, kLanes)), sums(round_up(s.max_k * d, 16)) {}
  int64_t turned_stride() const { return round_up(kBackwardRows, 32); }
  int64_t turned() const { return keys * turned_stride() / 2; }
  int64_t queries() const { return words<BFloat16>(kBackwardRows) * round_up(d, kLanes); }
  int64_t d, keys, by_key, by_column, sums;
};

// Panels of 64 keys: what rows of Q (or dO) are multiplied with for scores.
void pack_keys(const BFloat16* t, int64_t stride, int64_t rows, int64_t d, uint32_t* out) {
  for (int64_t j = 0; j < rows; j += kColumns, out += words<BFloat16>(d) * kColumns)
    pack_rows(kVectors, t + j * stride, stride, std::min(kColumns, rows - j), d, out);
}

// Panels of 64 columns: what rows of probabilities (or their transpose) are multiplied with.
void pack_values(const BFloat16* t, int64_t stride, int64_t rows, int64_t d, uint32_t* out) {
  for (int64_t c = 0; c < d; c += kColumns) {
    const int64_t n = std::min(kColumns, d - c);
    const int vectors = static_cast<int>((n + kLanes - 1) / kLanes);
    pack_columns(vectors, t + c, stride, n, rows, out);
    out += words<BFloat16>(rows) * vectors * kLanes;
  }
}

// c [rows, keys from `first` to `end`) = a [rows, d] · panelsᵀ.
void scores(const BFloat16* a, int64_t lda, int64_t rows, int64_t d, const uint32_t* panels, int64_t first, int64_t end, float* c, int64_t ldc) {
  for (int64_t j = first; j < end; j += kColumns)
    multiply_rows<BFloat16>(kVectors, rows, {a, lda, panels + j * words<BFloat16>(d), d, c + (j - first), ldc, kColumns, false, false, nullptr});
}

// c [rows, d] (+)= a [rows, k] · rows first…first+k of the `packed` rows in panels; `first` is even.
void weigh(const BFloat16* a, int64_t lda, int64_t rows, int64_t k, const uint32_t* panels, int64_t packed, int64_t first, int64_t d,
           void* c, int64_t ldc, bool half, bool accumulate) {
  for (int64_t column = 0; column < d; column += kColumns) {
    const int64_t n = std::min(kColumns, d - column);
    const int vectors = static_cast<int>((n + kLanes - 1) / kLanes);
    void* to = static_cast<char*>(c) + column * (half ? 2 : 4);
    multiply_rows<BFloat16>(vectors, rows, {a, lda, panels + first / 2 * vectors * kLanes, k, to, ldc, n, half, accumulate, nullptr});
    panels += words<BFloat16>(packed) * vectors * kLanes;
  }
}

// eˣ for x ≤ 88, about 2 ulp off; 0 far below.
[[gnu::always_inline]] inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-110.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// Lanes of the vector at c that lie in r.
[[gnu::always_inline]] inline __mmask16 inside(Range r, int64_t c) {
  return static_cast<__mmask16>(lanes(r.end - c) & ~lanes(r.begin - c));
}

// Writes a row of fp32 as bf16 over its own first half, zero outside of r.
void round_row(float* row, Range r, int64_t width, float factor) {
  auto* out = reinterpret_cast<BFloat16*>(row);
  const __m512 times = _mm512_set1_ps(factor);
  for (int64_t c = 0; c < width; c += kLanes) {
    const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(row + c), times);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(inside(r, c), x)));
  }
}

bool all_bf16(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.dtype == DType::bf16; });
}

// Whether scores want more than a factor before the softmax.
bool shaped(const AttentionShape& s) { return s.softcap > 0 || s.alibi || s.scale <= 0; }

// Scores that still are to be multiplied with `scale` become probabilities in bf16; returns the LSE.
float softmax(const AttentionShape& s, int64_t token, int64_t head, float scale, Range r, int64_t first, int64_t width, float* row) {
  const Range local{r.begin - first, r.end - first};
  if (r.begin >= r.end) {
    round_row(row, {0, 0}, width, 0.0f);
    return -std::numeric_limits<float>::infinity();
  }
  const int64_t begin = local.begin / kLanes * kLanes;
  __m512 highest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t c = begin; c < local.end; c += kLanes) highest = _mm512_mask_max_ps(highest, inside(local, c), highest, _mm512_loadu_ps(row + c));
  const float top = _mm512_reduce_max_ps(highest) * scale;
  const __m512 minus = _mm512_set1_ps(-top), times = _mm512_set1_ps(scale);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t c = begin; c < local.end; c += kLanes) {
    const __m512 e = _mm512_maskz_mov_ps(inside(local, c), exponential(_mm512_fmadd_ps(_mm512_loadu_ps(row + c), times, minus)));
    _mm512_storeu_ps(row + c, e);
    sum = _mm512_add_ps(sum, e);
  }
  const float total = _mm512_reduce_add_ps(sum);
  if (s.dropout > 0) drop(s, token, head, r, row - first);
  round_row(row, local, width, 1.0f / total);
  return top + std::log(total);
}

}  // namespace

bool can(const AttentionForward& a) { return all_bf16({a.q, a.k, a.v, a.out}); }
bool can(const AttentionBackward& a) { return all_bf16({a.q, a.k, a.v, a.dout, a.dq, a.dk, a.dv}); }

int64_t workspace(const AttentionShape& s, bool backward) {
  const Layout l(s);
  if (!backward) return l.by_key + l.by_column + kForwardRows * l.keys;
  return 2 * l.by_key + l.by_column + 2 * l.sums + 2 * kBackwardRows * l.keys + l.turned() + 2 * l.queries() + l.keys;
}

void forward(const AttentionForward& a) {
  const AttentionShape& s = a.shape;
  const Layout l(s);
  const int64_t d = s.head_dim, group = s.heads / s.kv_heads, sequences = a.cu_q.cols - 1;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t unit = 0; unit < sequences * s.heads; ++unit) {
    const Sequence q = sequence(a.cu_q, a.cu_k, unit / s.heads);
    const int64_t head = unit % s.heads, kv = head / group;
    float* memory = a.workspace.as<float>() + omp_get_thread_num() * workspace(s, false);
    auto* keys_packed = reinterpret_cast<uint32_t*>(memory);
    auto* values_packed = keys_packed + l.by_key;
    float* p = memory + l.by_key + l.by_column;
    pack_keys(a.k.row<BFloat16>(q.k0) + kv * d, a.k.stride, q.lk, d, keys_packed);
    pack_values(a.v.row<BFloat16>(q.k0) + kv * d, a.v.stride, q.lk, d, values_packed);
    for (int64_t t = 0; t < q.lq; t += kForwardRows) {
      const int64_t rows = std::min(kForwardRows, q.lq - t), end = tile_keys(s, t, rows, q.lq, q.lk);
      const int64_t first = visible(s, t, q.lq, q.lk).begin / kColumns * kColumns, width = round_up(std::max<int64_t>(0, end - first), kColumns);
      scores(a.q.row<BFloat16>(q.q0 + t) + head * d, a.q.stride, rows, d, keys_packed, first, end, p, l.keys);
      for (int64_t i = 0; i < rows; ++i) {
        const Range r = visible(s, t + i, q.lq, q.lk);
        float* row = p + i * l.keys;
        if (shaped(s)) finish_scores(s, head, t + i, q.lq, q.lk, r, row - first, nullptr);
        a.lse.row<float>(q.q0 + t + i)[head] = softmax(s, q.q0 + t + i, head, shaped(s) ? 1.0f : s.scale, r, first, width, row);
      }
      weigh(reinterpret_cast<BFloat16*>(p), 2 * l.keys, rows, std::max<int64_t>(0, end - first), values_packed, q.lk, first, d,
            a.out.row<BFloat16>(q.q0 + t) + head * d, a.out.stride, true, false);
    }
  }
}

namespace {

// What a thread holds for one k/v head.
struct Memory {
  Memory(const AttentionBackward& a, const Layout& l) {
    float* at = a.workspace.as<float>() + omp_get_thread_num() * workspace(a.shape, true);
    const auto take = [&](int64_t n) { return std::exchange(at, at + n); };
    keys = reinterpret_cast<uint32_t*>(take(l.by_key)), values = reinterpret_cast<uint32_t*>(take(l.by_key));
    keys_by_column = reinterpret_cast<uint32_t*>(take(l.by_column));
    queries = reinterpret_cast<uint32_t*>(take(l.queries())), douts = reinterpret_cast<uint32_t*>(take(l.queries()));
    dk = take(l.sums), dv = take(l.sums);
    p = take(kBackwardRows * l.keys), dp = take(kBackwardRows * l.keys);
    turned = reinterpret_cast<BFloat16*>(take(l.turned()));
    slope_of_cap = a.shape.softcap > 0 ? take(l.keys) : nullptr;
  }
  uint32_t *keys, *values, *keys_by_column, *queries, *douts;
  float *dk, *dv, *p, *dp, *slope_of_cap;
  BFloat16* turned;
};

// Scores and dP of a row become P and dS, both in bf16. Σ P∘dP is taken from the whole row: see attention.cpp.
void row_gradient(const AttentionBackward& a, const Memory& m, int64_t token, int64_t head, float scale, Range r, int64_t first, int64_t width,
                  float* p, float* dp) {
  const AttentionShape& s = a.shape;
  const Range local{r.begin - first, r.end - first};
  if (r.begin >= r.end) {
    round_row(p, {0, 0}, width, 0.0f);
    return round_row(dp, {0, 0}, width, 0.0f);
  }
  if (s.dropout > 0) drop(s, token, head, r, dp - first);
  const int64_t begin = local.begin / kLanes * kLanes;
  const __m512 minus = _mm512_set1_ps(-a.lse.row<float>(token)[head]), times = _mm512_set1_ps(scale);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t c = begin; c < local.end; c += kLanes) {
    const __m512 e = _mm512_maskz_mov_ps(inside(local, c), exponential(_mm512_fmadd_ps(_mm512_loadu_ps(p + c), times, minus)));
    _mm512_storeu_ps(p + c, e);
    sum = _mm512_mask3_fmadd_ps(e, _mm512_loadu_ps(dp + c), sum, inside(local, c));
  }
  const __m512 total = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
  for (int64_t c = begin; c < local.end; c += kLanes) {
    __m512 ds = _mm512_mul_ps(_mm512_loadu_ps(p + c), _mm512_sub_ps(_mm512_loadu_ps(dp + c), total));
    if (m.slope_of_cap) ds = _mm512_mul_ps(ds, _mm512_loadu_ps(m.slope_of_cap + first + c));
    _mm512_storeu_ps(dp + c, ds);
  }
  if (s.dropout > 0) drop(s, token, head, r, p - first);
  round_row(dp, local, width, s.scale);
  round_row(p, local, width, 1.0f);
}

// What `rows` queries of a head from t on add to dK and dV, and their dQ.
void tile_gradient(const AttentionBackward& a, const Layout& l, const Memory& m, const Sequence& q, int64_t head, int64_t t, int64_t rows) {
  const AttentionShape& s = a.shape;
  const int64_t d = s.head_dim, end = tile_keys(s, t, rows, q.lq, q.lk);
  const int64_t first = visible(s, t, q.lq, q.lk).begin / kColumns * kColumns;
  const int64_t seen = std::max<int64_t>(0, end - first), width = round_up(seen, kColumns);
  const BFloat16* queries = a.q.row<BFloat16>(q.q0 + t) + head * d;
  const BFloat16* dout = a.dout.row<BFloat16>(q.q0 + t) + head * d;
  scores(queries, a.q.stride, rows, d, m.keys, first, end, m.p, l.keys);
  scores(dout, a.dout.stride, rows, d, m.values, first, end, m.dp, l.keys);
  for (int64_t i = 0; i < rows; ++i) {
    const Range r = visible(s, t + i, q.lq, q.lk);
    float* row = m.p + i * l.keys;
    if (shaped(s)) finish_scores(s, head, t + i, q.lq, q.lk, r, row - first, m.slope_of_cap);
    row_gradient(a, m, q.q0 + t + i, head, shaped(s) ? 1.0f : s.scale, r, first, width, row, m.dp + i * l.keys);
  }
  const auto add = [&](const float* weights, const BFloat16* from, int64_t stride, uint32_t* packed, float* sums) {
    pack_values(from, stride, rows, d, packed);
    transpose_rows(reinterpret_cast<const BFloat16*>(weights), 2 * l.keys, seen, rows, m.turned, l.turned_stride());
    weigh(m.turned, l.turned_stride(), seen, rows, packed, rows, 0, d, sums + first * d, d, false, true);
  };
  add(m.p, dout, a.dout.stride, m.douts, m.dv);
  add(m.dp, queries, a.q.stride, m.queries, m.dk);
  // Last, as dQ may lie where Q does.
  weigh(reinterpret_cast<const BFloat16*>(m.dp), 2 * l.keys, rows, seen, m.keys_by_column, q.lk, first, d,
        a.dq.row<BFloat16>(q.q0 + t) + head * d, a.dq.stride, true, false);
}

void store(const float* in, int64_t rows, int64_t cols, const Tensor& t, int64_t row, int64_t column) {
  for (int64_t i = 0; i < rows; ++i) {
    BFloat16* to = t.row<BFloat16>(row + i) + column;
    for (int64_t j = 0; j < cols; ++j) to[j] = to_bf16(in[i * cols + j]);
  }
}

}  // namespace

void backward(const AttentionBackward& a) {
  const AttentionShape& s = a.shape;
  const Layout l(s);
  const int64_t d = s.head_dim, group = s.heads / s.kv_heads, sequences = a.cu_q.cols - 1;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t unit = 0; unit < sequences * s.kv_heads; ++unit) {
    const Sequence q = sequence(a.cu_q, a.cu_k, unit / s.kv_heads);
    const int64_t kv = unit % s.kv_heads;
    const Memory m(a, l);
    pack_keys(a.k.row<BFloat16>(q.k0) + kv * d, a.k.stride, q.lk, d, m.keys);
    pack_keys(a.v.row<BFloat16>(q.k0) + kv * d, a.v.stride, q.lk, d, m.values);
    pack_values(a.k.row<BFloat16>(q.k0) + kv * d, a.k.stride, q.lk, d, m.keys_by_column);
    std::fill(m.dk, m.dk + q.lk * d, 0.0f);
    std::fill(m.dv, m.dv + q.lk * d, 0.0f);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head)
      for (int64_t t = 0; t < q.lq; t += kBackwardRows)
        tile_gradient(a, l, m, q, head, t, std::min(kBackwardRows, q.lq - t));
    store(m.dk, q.lk, d, a.dk, q.k0, kv * d);
    store(m.dv, q.lk, d, a.dv, q.k0, kv * d);
  }
}

#else

bool can(const AttentionForward&) { return false; }
bool can(const AttentionBackward&) { return false; }
int64_t workspace(const AttentionShape&, bool) { return 0; }
void forward(const AttentionForward&) {}
void backward(const AttentionBackward&) {}

#endif

}  // namespace attune::ops::cpu::ATTUNE_ISA::attention_bf16
