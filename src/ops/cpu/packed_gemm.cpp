#include "ops/cpu/packed_gemm.h"

#include "ops/cpu/tile.h"

// A thread packs 64 columns of op(B) into its second-level cache and runs down all rows of a chunk of op(A); threads
// share nothing, so there is nothing to wait for. A is read where it lies; Aᵀ (weight gradients) is turned chunk by
// chunk. Products of few rows with Bᵀ read both operands where they lie.
namespace attune::ops::cpu::ATTUNE_ISA::packed {

#if defined(__AVX512F__) && defined(__AVX512BW__)

namespace {

using namespace tile;

template <class T>
constexpr int64_t kDepth = 1280 * kWord<T>;  // of the inner dimension in one panel: 320 kB
constexpr int64_t kPartialRows = 1024;  // of a chunk whose fp32 sums wait for the next panel
constexpr int64_t kTurnedBytes = 2 << 20, kTurnedRows = 96;  // of a chunk of Aᵀ: at most the one, at least the other
constexpr int64_t kChunkRows = 192;     // fewer do not pay for packing a panel
constexpr int64_t kUnitsPerThread = 4;  // so that a thread that is held up delays the others little
constexpr int64_t kFewRows = 24;        // up to here rows meet rows
constexpr int64_t kStreamed = 8, kStreamedBytes = 4096;

struct Plan {
  int64_t depth, depths;  // of a panel, and how many
  int64_t rows, chunks, panels;
  int64_t turned_stride;  // 0: A is not turned
  bool partial;
};

template <class T>
Plan make_plan(const Gemm& g, const Sizes& s) {
  Plan p;
  p.depths = (s.k + kDepth<T> - 1) / kDepth<T>;
  p.depth = round_up((s.k + p.depths - 1) / p.depths, kVector<T>);
  p.panels = (s.n + kColumns - 1) / kColumns;
  p.partial = p.depths > 1 && g.c.dtype != DType::f32;
  // An odd number of lines between rows keeps them out of each other's cache sets.
  p.turned_stride = g.transpose_a ? round_up(s.k, 2 * kVector<T>) + kVector<T> : 0;
  int64_t most = s.m;
  if (p.partial) most = std::min(most, kPartialRows);
  if (p.turned_stride) most = std::min(most, std::max(kTurnedRows, kTurnedBytes / (p.turned_stride * static_cast<int64_t>(sizeof(T)))));
  const int64_t wanted = (kUnitsPerThread * omp_get_max_threads() + p.panels - 1) / p.panels;
  p.chunks = std::max((s.m + most - 1) / most, std::min(wanted, s.m / kChunkRows));
  p.rows = (s.m + p.chunks - 1) / p.chunks;
  return p;
}

struct Bytes {
  int64_t panel, partial, turned;
  int64_t total() const { return panel + partial + turned; }
};

// What each thread needs, by capacity: never less than for fewer rows.
template <class T>
Bytes bytes_of(const Gemm& g, const Sizes& s) {
  const Plan p = make_plan<T>(g, s);
  const int64_t element = sizeof(T);
  Bytes b;
  b.panel = kColumns * std::min(round_up(s.k, kVector<T>), kDepth<T>) * element;
  b.partial = p.partial ? std::min(s.m, kPartialRows) * kColumns * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t row = p.turned_stride * element;
  b.turned = g.transpose_a ? round_up(std::min(s.m * row, std::max(kTurnedRows * row, kTurnedBytes)), 64) : 0;
  return b;
}

template <class T>
struct Work {
  const Gemm& g;
  const Sizes& s;
  const Plan& plan;
  uint32_t* panel;
  float* partial;
  T* turned;
};

// C[i…i+rows, 64 columns from j].
template <class T>
void block(const Work<T>& w, int64_t i, int64_t rows, int64_t j) {
  const Gemm& g = w.g;
  const int64_t n = std::min(kColumns, w.s.n - j);
  const int vectors = static_cast<int>((n + kLanes - 1) / kLanes);
  const bool half = g.c.dtype != DType::f32;
  for (int64_t d = 0; d < w.plan.depths; ++d) {
    const int64_t k0 = d * w.plan.depth, k = std::min(w.plan.depth, w.s.k - k0);
    if (g.transpose_b) pack_rows(vectors, g.b.row<T>(j) + k0, g.b.stride, n, k, w.panel);
    else pack_columns(vectors, g.b.row<T>(k0) + j, g.b.stride, n, k, w.panel);
    Product<T> p{g.transpose_a ? w.turned + k0 : g.a.row<T>(i) + k0, g.transpose_a ? w.plan.turned_stride : g.a.stride,
                 w.panel, k, nullptr, g.c.stride, n, half, g.accumulate, nullptr};
    p.c = static_cast<char*>(g.c.data) + (i * g.c.stride + j) * (half ? 2 : 4);
    const bool first = d == 0, last = d + 1 == w.plan.depths;
    if (!half) p.accumulate = g.accumulate || !first;
    else if (!last) p.c = w.partial, p.ldc = kColumns, p.n = kColumns, p.half = false, p.accumulate = !first;
    else if (!first) p.partial = w.partial;
    multiply_rows(vectors, rows, p);
  }
}

template <class T>
void packed_gemm(const GemmCall& call, const Sizes& capacity, const Sizes& s) {
  const Gemm& g = call.args;
  const Plan plan = make_plan<T>(g, s);
  const Bytes bytes = bytes_of<T>(g, capacity);
#pragma omp parallel
  {
    char* memory = static_cast<char*>(call.workspace) + omp_get_thread_num() * bytes.total();
    Work<T> w{g, s, plan, reinterpret_cast<uint32_t*>(memory), reinterpret_cast<float*>(memory + bytes.panel),
              reinterpret_cast<T*>(memory + bytes.panel + bytes.partial)};
    int64_t turned = -1;
#pragma omp for schedule(dynamic, 1)
    for (int64_t unit = 0; unit < plan.chunks * plan.panels; ++unit) {
      const int64_t chunk = unit / plan.panels, i = chunk * plan.rows, rows = std::min(plan.rows, s.m - i);
      if (rows <= 0) continue;
      if (g.transpose_a && chunk != turned) {
        transpose_rows(g.a.as<T>() + i, g.a.stride, rows, s.k, w.turned, plan.turned_stride);
        turned = chunk;
      }
      block(w, i, rows, unit % plan.panels * kColumns);
    }
  }
}

// The sums over the lanes of four vectors.
[[gnu::always_inline]] inline __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

void put(const Gemm& g, int64_t i, int64_t j, float total) {
  if (g.c.dtype == DType::f32) {
    float& to = g.c.row<float>(i)[j];
    to = g.accumulate ? to + total : total;
  } else {
    BFloat16& to = g.c.row<BFloat16>(i)[j];
    to = to_bf16(g.accumulate ? to_float(to) + total : total);
  }
}

// Rows i…i+MR of A with rows j…j+NR of B, both along the inner dimension.
template <class T, int MR, int NR>
void dot_rows(const Gemm& g, int64_t k, int64_t i, int64_t j) {
  __m512 sum[MR][NR];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 6
    for (int c = 0; c < NR; ++c) sum[r][c] = _mm512_setzero_ps();
  const T *a = g.a.row<T>(i), *b = g.b.row<T>(j);
  const int64_t lda = g.a.stride, ldb = g.b.stride;
  const auto step = [&](auto&& load, int64_t l) __attribute__((always_inline)) {
    __m512i x[MR];
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) x[r] = load(a + r * lda + l);
#pragma GCC unroll 6
    for (int c = 0; c < NR; ++c) {
      const __m512i y = load(b + c * ldb + l);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) sum[r][c] = multiply_add<T>(sum[r][c], x[r], y);
    }
  };
  int64_t l = 0;
  for (; l + kVector<T> <= k; l += kVector<T>) step([](const T* p) __attribute__((always_inline)) { return _mm512_loadu_si512(p); }, l);
  if (l < k) step([&](const T* p) __attribute__((always_inline)) { return load_words(p, k - l); }, l);
#pragma GCC unroll 8
  for (int c = 0; c < NR; ++c)
#pragma GCC unroll 8
    for (int r = 0; r < MR; r += 4) {
      const auto row = [&](int n) __attribute__((always_inline)) { return n < MR ? sum[std::min(n, MR - 1)][c] : _mm512_setzero_ps(); };
      alignas(16) float totals[4];
      _mm_store_ps(totals, sums_of(row(r), row(r + 1), row(r + 2), row(r + 3)));
      for (int n = 0; n < std::min(4, MR - r); ++n) put(g, i + r + n, j + c, totals[n]);
    }
}

template <class T, int NR>
void dot_rows(int height, const Gemm& g, int64_t k, int64_t i, int64_t j) {
  if constexpr (NR == 1) switch (height) {
    case 8: return dot_rows<T, 8, NR>(g, k, i, j);
    case 7: return dot_rows<T, 7, NR>(g, k, i, j);
    case 6: return dot_rows<T, 6, NR>(g, k, i, j);
    case 5: return dot_rows<T, 5, NR>(g, k, i, j);
    default: break;
  }
  switch (height) {
    case 4: return dot_rows<T, 4, NR>(g, k, i, j);
    case 3: return dot_rows<T, 3, NR>(g, k, i, j);
    case 2: return dot_rows<T, 2, NR>(g, k, i, j);
    default: return dot_rows<T, 1, NR>(g, k, i, j);
  }
}

// Few rows of A: each row of B is read from memory once. Short rows of B are read from end to end, as the hardware
// likes it; long ones several at a time, which uses what is loaded more often.
template <class T>
void few_rows_gemm(const Gemm& g, const Sizes& s) {
  const bool single = s.m <= kStreamed && s.k * static_cast<int64_t>(sizeof(T)) <= kStreamedBytes;
  const int64_t high = single ? 8 : 4, wide = single ? 1 : 6;
  const int64_t tiles = (s.m + high - 1) / high, groups = (s.n + wide - 1) / wide;
#pragma omp parallel for schedule(static) if (s.n * s.k > kParallelElements)
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t j = group * wide;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t i = s.m * t / tiles;
      const int height = static_cast<int>(s.m * (t + 1) / tiles - i);
      if (single) dot_rows<T, 1>(height, g, s.k, i, j);
      else if (j + wide <= s.n) dot_rows<T, 6>(height, g, s.k, i, j);
      else for (int64_t c = j; c < s.n; ++c) dot_rows<T, 1>(height, g, s.k, i, c);
    }
  }
}

bool few_rows(const Gemm& g, const Sizes& s) { return !g.transpose_a && g.transpose_b && s.m <= kFewRows; }

template <class F>
void with_element(const Gemm& g, F&& f) {
#if defined(__AVX512BF16__)
  if (g.a.dtype == DType::bf16) return f(BFloat16{});
#endif
  f(float{});
}

}  // namespace

bool can(const Gemm& g) {
  if (g.a.dtype == DType::f32) return g.b.dtype == DType::f32 && g.c.dtype == DType::f32;
#if defined(__AVX512BF16__)
  return g.a.dtype == DType::bf16 && g.b.dtype == DType::bf16 && g.c.dtype != DType::f16;
#else
  return false;
#endif
}

uint64_t workspace(const Gemm& g, const Sizes& capacity) {
  if (capacity.m <= 0 || capacity.n <= 0 || capacity.k <= 0 || few_rows(g, capacity)) return 0;
  uint64_t bytes = 0;
  with_element(g, [&](auto zero) { bytes = static_cast<uint64_t>(bytes_of<decltype(zero)>(g, capacity).total() * omp_get_max_threads()); });
  return bytes;
}

void gemm(const GemmCall& call, const Sizes& capacity, const Sizes& s) {
  with_element(call.args, [&](auto zero) {
    using T = decltype(zero);
    if (few_rows(call.args, s)) few_rows_gemm<T>(call.args, s);
    else packed_gemm<T>(call, capacity, s);
  });
}

#else

bool can(const Gemm&) { return false; }
uint64_t workspace(const Gemm&, const Sizes&) { return 0; }
void gemm(const GemmCall&, const Sizes&, const Sizes&) {}

#endif

}  // namespace attune::ops::cpu::ATTUNE_ISA::packed
