#include "ops/dequantize.h"

#include "ops/cpu/lanes.h"
#include "ops/dynamic_map.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

// The numbers of 16 codes by code, in registers.
class CodeTable {
 public:
  explicit CodeTable(const float* table) : table_(table) {
#if defined(__AVX512F__)
    all_ = _mm512_loadu_ps(table);
#elif defined(__AVX2__)
    low_ = _mm256_loadu_ps(table), high_ = _mm256_loadu_ps(table + 8);
#endif
  }
  // Of kWidth codes in kWidth/2 bytes.
  [[gnu::always_inline]] Floats operator()(const uint8_t* bytes) const {
#if defined(__AVX512F__)
    return (Floats)_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)))), all_);
#elif defined(__AVX2__)
    const __m256i code = _mm256_cvtepu8_epi32(halves(_mm_cvtsi32_si128(read<int32_t>(bytes))));
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // its sign: a code above 7
    return (Floats)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low_, code), _mm256_permutevar8x32_ps(high_, code), upper);
#else
    Floats x;
    for (int64_t i = 0; i < kWidth; i += 2) x[i] = table_[bytes[i / 2] >> 4], x[i + 1] = table_[bytes[i / 2] & 15];
    return x;
#endif
  }
  [[gnu::always_inline]] float at(const uint8_t* codes, int64_t i) const { return table_[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4]; }

 private:
#if defined(__AVX2__)
  // One code a byte: the upper half first.
  [[gnu::always_inline]] static __m128i halves(__m128i bytes) {
    const __m128i mask = _mm_set1_epi8(15);
    return _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask), _mm_and_si128(bytes, mask));
  }
#endif
  const float* table_;
#if defined(__AVX512F__)
  __m512 all_;
#elif defined(__AVX2__)
  __m256 low_, high_;
#endif
};

[[gnu::always_inline]] inline float absmax_of(const QuantizedMatrix& m, const float* map, int64_t block) {
  if (!m.how.double_quantization) return m.absmax[block];
  return map[m.absmax_codes[block]] * m.absmax[block / kQuantScaleBlock] + m.mean();
}

// Elements [first, end) of the flattened matrix.
template <class T>
void four_bits(const QuantizedMatrix& m, const CodeTable& table, const float* map, int64_t first, int64_t end, T* out) {
  while (first < end) {
    const int64_t block = first / kQuantBlock, stop = std::min(end, (block + 1) * kQuantBlock);
    const float scale = absmax_of(m, map, block);
    const Floats scales = broadcast(scale);
    if (first % 2) *out++ = from_float<T>(table.at(m.codes, first++) * scale);
    for (; first + kWidth <= stop; first += kWidth, out += kWidth) Whole::store(table(m.codes + first / 2) * scales, out);
    for (; first < stop; ++first) *out++ = from_float<T>(table.at(m.codes, first) * scale);
  }
}

using Bytes = int8_t __attribute__((vector_size(kWidth)));

template <class T>
void eight_bits(const QuantizedMatrix& m, int64_t row, int64_t column, int64_t n, T* out) {
  const uint8_t* codes = m.codes + row * m.cols + column;
  const float absmax = m.absmax[row], step = 1.0f / 127.0f;
  int64_t i = 0;
  // Two products, as bitsandbytes: the same numbers to the last bit.
  for (; i + kWidth <= n; i += kWidth) Whole::store(__builtin_convertvector(read<Bytes>(codes + i), Floats) * absmax * step, out + i);
  for (; i < n; ++i) out[i] = from_float<T>(static_cast<float>(static_cast<int8_t>(codes[i])) * absmax * step);
}

// x as `quantized_product` reads it: of each block the elements in the upper halves of the codes' bytes, then those in the lower ones.
template <class T, class Spread>
void spread(const Tensor& x, Spread* out) {
  constexpr int64_t kHalf = kQuantBlock / 2;
  for (int64_t i = 0; i < x.rows.count; ++i)
    for (int64_t block = 0; block < x.cols; block += kQuantBlock, out += kQuantBlock)
      for (int64_t j = 0; j < kHalf; ++j) {
        out[j] = from_float<Spread>(to_float(x.row<T>(i)[block + 2 * j]));
        out[kHalf + j] = from_float<Spread>(to_float(x.row<T>(i)[block + 2 * j + 1]));
      }
}

// The sums of M rows of x with one row of the matrix. A block has sixteen different numbers: they are scaled and rounded (to T, as
// `dequantize` does) once, and codes choose among them.
template <class T, class Spread, int M>
void multiply_row(const QuantizedMatrix& w, const float* map, const float* numbers, int64_t row, const Spread* x, float* sums) {
  const int64_t blocks = w.cols / kQuantBlock;
  const uint8_t* codes = w.codes + row * w.cols / 2;
#if defined(__AVX512F__) && defined(__AVX512BW__)
  const __m512 all = _mm512_loadu_ps(numbers);
  const __m256i mask = _mm256_set1_epi8(15);
  __m512 sum[M][2];
  for (int i = 0; i < M; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const __m512 scaled = _mm512_mul_ps(all, _mm512_set1_ps(absmax_of(w, map, row * blocks + b)));
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + b * (kQuantBlock / 2)));
    const __m256i half[2] = {_mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), _mm256_and_si256(bytes, mask)};
    const Spread* from = x + b * kQuantBlock;
#if defined(__AVX512BF16__)
    if constexpr (sizeof(Spread) == 2) {
      const __m512i table = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(scaled));
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i numbers_of = _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(half[h]), table);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i)
          sum[i][h] = _mm512_dpbf16_ps(sum[i][h], (__m512bh)numbers_of, (__m512bh)_mm512_loadu_si512(from + i * w.cols + h * kQuantBlock / 2));
      }
      continue;
    }
#endif
    if constexpr (sizeof(Spread) == 4) {
      float rounded[kWidth];
      if constexpr (sizeof(T) == 2) {
        T narrow[kWidth];
        Whole::store((Floats)scaled, narrow);
        Whole::store(Whole::load(narrow), rounded);
      } else {
        Whole::store((Floats)scaled, rounded);
      }
      const __m512 table = _mm512_loadu_ps(rounded);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const __m128i quarter = q % 2 ? _mm256_extracti128_si256(half[q / 2], 1) : _mm256_castsi256_si128(half[q / 2]);
        const __m512 numbers_of = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(quarter), table);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) sum[i][q % 2] = _mm512_fmadd_ps(numbers_of, _mm512_loadu_ps(from + i * w.cols + q * kWidth), sum[i][q % 2]);
      }
    }
  }
  for (int i = 0; i < M; ++i) sums[i] = _mm512_reduce_add_ps(_mm512_add_ps(sum[i][0], sum[i][1]));
#else
  for (int i = 0; i < M; ++i) sums[i] = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float scale = absmax_of(w, map, row * blocks + b);
    float table[16];
    for (int c = 0; c < 16; ++c) table[c] = to_float(from_float<T>(numbers[c] * scale));
    for (int64_t j = 0; j < kQuantBlock / 2; ++j) {
      const uint8_t byte = codes[b * (kQuantBlock / 2) + j];
      for (int i = 0; i < M; ++i) {
        const Spread* from = x + i * w.cols + b * kQuantBlock + j;
        sums[i] += table[byte >> 4] * to_float(from[0]) + table[byte & 15] * to_float(from[kQuantBlock / 2]);
      }
    }
  }
#endif
}

template <class T, class Spread, int M = 1>
void multiply_rows(const QuantizedProduct& a, const Spread* x) {
  if constexpr (M < kMostProductRows)
    if (a.x.rows.count > M) return multiply_rows<T, Spread, M + 1>(a, x);
  const float* map = DynamicMap::with_sign().values.data();
  const float* numbers = code_table(a.w.how.type).data();
#pragma omp parallel for schedule(static) if (a.w.count() >= kParallelElements)
  for (int64_t j = 0; j < a.w.rows; ++j) {
    float sums[M];
    multiply_row<T, Spread, M>(a.w, map, numbers, j, x, sums);
    with_type(a.y.dtype, [&](auto zero) {
      for (int i = 0; i < M; ++i) a.y.row<decltype(zero)>(i)[j] = from_float<decltype(zero)>(sums[i]);
    });
  }
}

}  // namespace

void quantized_product(const QuantizedProductCall& call) {
  with_type(call.args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, Float16>) {
#if defined(__AVX512BF16__)
      using Spread = T;
#else
      using Spread = float;
#endif
      auto* x = reinterpret_cast<Spread*>(call.workspace);
      spread<T>(call.args.x, x);
      multiply_rows<T>(call.args, x);
    }
  });
}

void dequantize(const Dequantize& a) {
  const QuantizedMatrix& m = a.from;
  const int64_t rows = a.out.rows.count, cols = a.out.cols;
  with_type(a.out.dtype, [&](auto t) {
    using T = decltype(t);
    const CodeTable table(code_table(m.how.type).data());
    const float* map = DynamicMap::with_sign().values.data();
#pragma omp parallel for schedule(static) if (rows * cols >= kParallelElements)
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t first = (a.row + i) * m.cols + a.column;
      if (m.how.four_bits()) four_bits(m, table, map, first, first + cols, a.out.row<T>(i));
      else eight_bits(m, a.row + i, a.column, cols, a.out.row<T>(i));
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
