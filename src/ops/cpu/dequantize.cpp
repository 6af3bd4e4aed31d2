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

}  // namespace

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
