// Register tiles of a matrix product on AVX-512, and the layouts they read. Used by the packed GEMM and by attention.
//
// A vector lane takes a 32-bit word of the inner dimension: one fp32, or two neighbouring bf16 (vdpbf16ps). A tile of
// C has up to 6 rows and 4 vectors of 16 columns, its sums stay in registers. A is read row by row where it lies;
// B comes as a panel: words [K/word][columns], columns a multiple of 16, zero where the matrix has ended.
#pragma once

#include <immintrin.h>

#include "ops/cpu/kernel.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

namespace attune::ops::cpu::ATTUNE_ISA::tile {

inline constexpr int kRows = 6, kVectors = 4, kLanes = 16;
inline constexpr int64_t kColumns = kVectors * kLanes;

template <class T>
inline constexpr int64_t kWord = 4 / sizeof(T);  // elements of the inner dimension in a word
template <class T>
inline constexpr int64_t kVector = kLanes * kWord<T>;

[[gnu::always_inline]] inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
template <class T>
[[gnu::always_inline]] inline int64_t words(int64_t k) { return (k + kWord<T> - 1) / kWord<T>; }

[[gnu::always_inline]] inline __mmask16 lanes(int64_t n) {
  return n >= kLanes ? __mmask16(0xFFFF) : n <= 0 ? __mmask16(0) : static_cast<__mmask16>((1u << n) - 1);
}

template <class T>
[[gnu::always_inline]] inline __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 2) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
  static_assert(sizeof(T) == 4, "bf16 products need AVX512-BF16");
#endif
  return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

// Up to 16 words that begin at p; only `n` elements are there, the rest is zero.
template <class T>
[[gnu::always_inline]] inline __m512i load_words(const T* p, int64_t n) {
  if (n >= kVector<T>) return _mm512_loadu_si512(p);
  if (n <= 0) return _mm512_setzero_si512();
  if constexpr (sizeof(T) == 2) return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
  else return _mm512_maskz_loadu_epi32(lanes(n), p);
}

// Transposes 16 x 16 words in place.
[[gnu::always_inline]] inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// Words of two neighbouring rows of a matrix whose inner dimension runs down its columns: lane j is (upper[j], lower[j])
// for bf16, upper[j] for fp32. `n` columns are there; `lower` may be null.
template <class T>
[[gnu::always_inline]] inline __m512i pair_rows(const T* upper, const T* lower, int64_t n) {
  if constexpr (sizeof(T) == 4) {
    return load_words(upper, n);
  } else {
    const auto load = [n](const T* p) {
      return n >= kLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_maskz_loadu_epi16(lanes(n), p);
    };
    const __m512i high = lower ? _mm512_slli_epi32(_mm512_cvtepu16_epi32(load(lower)), 16) : _mm512_setzero_si512();
    return _mm512_or_si512(_mm512_cvtepu16_epi32(load(upper)), high);
  }
}

// Panel of Bᵀ: b [n, k] with the inner dimension along its rows. Sixteen rows at a time, each on pages of its own.
template <class T, int NV>
void pack_rows(const T* b, int64_t ldb, int64_t n, int64_t k, uint32_t* panel) {
  for (int v = 0; v < NV; ++v)
    for (int64_t c = 0; c < k; c += kVector<T>) {
      const int64_t depth = std::min<int64_t>(kLanes, words<T>(k - c));
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) r[i] = v * kLanes + i < n ? load_words(b + (v * kLanes + i) * ldb + c, k - c) : _mm512_setzero_si512();
      transpose(r);
      uint32_t* to = panel + c / kWord<T> * NV * kLanes + v * kLanes;
      if (depth == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * NV * kLanes, r[i]);
      } else {
        for (int64_t i = 0; i < depth; ++i) _mm512_store_si512(to + i * NV * kLanes, r[i]);
      }
    }
}

inline constexpr int64_t kAhead = 16;  // rows

// Panel of B: b [k, n].
template <class T, int NV>
void pack_columns(const T* b, int64_t ldb, int64_t n, int64_t k, uint32_t* panel) {
  for (int64_t l = 0; l < k; l += kWord<T>, panel += NV * kLanes) {
    const T* upper = b + l * ldb;
    const T* lower = l + 1 < k ? upper + ldb : nullptr;
    // Each row may lie on a page of its own, where the hardware does not look ahead.
    for (int64_t r = 0; r < kWord<T>; ++r)
      for (int64_t c = 0; c < NV * kLanes; c += 64 / static_cast<int64_t>(sizeof(T)))
        _mm_prefetch(reinterpret_cast<const char*>(upper + (kAhead + r) * ldb + c), _MM_HINT_T0);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      _mm512_store_si512(panel + v * kLanes, pair_rows(upper + v * kLanes, lower ? lower + v * kLanes : nullptr, n - v * kLanes));
  }
}

// Aᵀ as rows: a [k, m] becomes [m, lda_out], zero from k to the next multiple of a vector (lda_out is at least that).
template <class T>
void transpose_rows(const T* a, int64_t lda, int64_t m, int64_t k, T* out, int64_t ldo) {
  for (int64_t c = 0; c < k; c += kVector<T>)
    for (int64_t i = 0; i < m; i += kLanes) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int l = 0; l < 16; ++l) {
        const int64_t row = c + l * kWord<T>;
        const T* upper = a + row * lda + i;
        r[l] = row < k ? pair_rows(upper, row + 1 < k ? upper + lda : nullptr, m - i) : _mm512_setzero_si512();
      }
      transpose(r);
      if (i + kLanes <= m) {
#pragma GCC unroll 16
        for (int l = 0; l < 16; ++l) _mm512_storeu_si512(out + (i + l) * ldo + c, r[l]);
      } else {
        for (int64_t l = 0; l < m - i; ++l) _mm512_storeu_si512(out + (i + l) * ldo + c, r[l]);
      }
    }
}

template <class T>
[[gnu::always_inline]] inline void pack_rows(int vectors, const T* b, int64_t ldb, int64_t n, int64_t k, uint32_t* panel) {
  if (vectors == 4) pack_rows<T, 4>(b, ldb, n, k, panel);
  else if (vectors == 3) pack_rows<T, 3>(b, ldb, n, k, panel);
  else if (vectors == 2) pack_rows<T, 2>(b, ldb, n, k, panel);
  else pack_rows<T, 1>(b, ldb, n, k, panel);
}
template <class T>
[[gnu::always_inline]] inline void pack_columns(int vectors, const T* b, int64_t ldb, int64_t n, int64_t k, uint32_t* panel) {
  if (vectors == 4) pack_columns<T, 4>(b, ldb, n, k, panel);
  else if (vectors == 3) pack_columns<T, 3>(b, ldb, n, k, panel);
  else if (vectors == 2) pack_columns<T, 2>(b, ldb, n, k, panel);
  else pack_columns<T, 1>(b, ldb, n, k, panel);
}

// Some rows of A times a panel.
template <class T>
struct Product {
  const T* a;
  int64_t lda;
  const uint32_t* panel;
  int64_t k;
  void* c;  // fp32, or bf16 where `half`
  int64_t ldc;
  int64_t n;  // columns of C that are there
  bool half;
  bool accumulate;       // add what C holds
  const float* partial;  // or null: add fp32 sums [rows, kColumns]
};

[[gnu::always_inline]] inline __m512 load_c(const float* c, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, c); }
[[gnu::always_inline]] inline void store_c(float* c, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(c, mask, x); }
#if defined(__AVX512BF16__)
[[gnu::always_inline]] inline __m512 load_c(const BFloat16* c, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, c)), 16));
}
[[gnu::always_inline]] inline void store_c(BFloat16* c, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(c, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
#endif

template <class C, int MR, int NV>
[[gnu::always_inline]] inline void finish(__m512 (&sum)[MR][NV], C* c, int64_t ldc, int64_t n, bool accumulate, const float* partial) {
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const __mmask16 mask = lanes(n - v * kLanes);
      C* to = c + i * ldc + v * kLanes;
      if (partial) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_loadu_ps(partial + i * kColumns + v * kLanes));
      if (accumulate) sum[i][v] = _mm512_add_ps(sum[i][v], load_c(to, mask));
      store_c(to, mask, sum[i][v]);
    }
}

template <class T, int MR, int NV>
void multiply(const Product<T>& p) {
  __m512 sum[MR][NV];
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[i][v] = _mm512_setzero_ps();
  const uint32_t* b = p.panel;
  const T* a = p.a;
  const int64_t lda = p.lda;
  // C is wanted when the sums are done: by then it is here.
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      __builtin_prefetch(static_cast<const char*>(p.c) + (i * p.ldc + v * kLanes) * (p.half ? 2 : 4), 1);
  for (const T* end = a + p.k / kWord<T> * kWord<T>; a < end; a += kWord<T>, b += NV * kLanes) {
    __m512i column[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) column[v] = _mm512_load_si512(b + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
      int32_t word;
      std::memcpy(&word, a + i * lda, 4);
      const __m512i row = _mm512_set1_epi32(word);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[i][v] = multiply_add<T>(sum[i][v], row, column[v]);
    }
  }
  if constexpr (sizeof(T) == 2)
    if (p.k % 2) {  // half a word: what lies behind the row is not read
#pragma GCC unroll 6
      for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v)
          sum[i][v] = multiply_add<T>(sum[i][v], _mm512_set1_epi32(a[i * lda].bits), _mm512_load_si512(b + v * kLanes));
    }
#if defined(__AVX512BF16__)
  if (p.half) return finish<BFloat16, MR, NV>(sum, static_cast<BFloat16*>(p.c), p.ldc, p.n, p.accumulate, p.partial);
#endif
  finish<float, MR, NV>(sum, static_cast<float*>(p.c), p.ldc, p.n, p.accumulate, p.partial);
}

template <class T, int NV>
[[gnu::always_inline]] inline void multiply(int rows, const Product<T>& p) {
  switch (rows) {
    case 6: return multiply<T, 6, NV>(p);
    case 5: return multiply<T, 5, NV>(p);
    case 4: return multiply<T, 4, NV>(p);
    case 3: return multiply<T, 3, NV>(p);
    case 2: return multiply<T, 2, NV>(p);
    default: return multiply<T, 1, NV>(p);
  }
}

// `rows` rows of A times a panel, in tiles of nearly equal height.
template <class T>
void multiply_rows(int vectors, int64_t rows, Product<T> p) {
  const int64_t tiles = (rows + kRows - 1) / kRows;
  const Product<T> whole = p;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = rows * t / tiles;
    const int height = static_cast<int>(rows * (t + 1) / tiles - begin);
    p.a = whole.a + begin * p.lda;
    p.c = static_cast<char*>(whole.c) + begin * p.ldc * (p.half ? 2 : 4);
    if (whole.partial) p.partial = whole.partial + begin * kColumns;
    if (vectors == 4) multiply<T, 4>(height, p);
    else if (vectors == 3) multiply<T, 3>(height, p);
    else if (vectors == 2) multiply<T, 2>(height, p);
    else multiply<T, 1>(height, p);
  }
}

}  // namespace attune::ops::cpu::ATTUNE_ISA::tile

#endif
