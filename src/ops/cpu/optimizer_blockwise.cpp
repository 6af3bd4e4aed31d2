#include "ops/cpu/dynamic_codes.h"
#include "ops/cpu/sweep.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define ATTUNE_DECADES 1
#endif

template <bool kSigned>
void decode(const State8bit& s, Range r, float* out) {
  const uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  const float* values = dynamic_map<kSigned>().values.data();
  for (int64_t i = 0; i < r.n; i += 64) fetch(codes + kBlock + i);
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const float scale = s.scales.as<float>()[(r.begin + i) / kStateBlock];
    const int64_t end = std::min(r.n, i + kStateBlock);
    int64_t j = i;
#if ATTUNE_DECADES
    const auto& decades = DecadeArithmetic<kSigned>::get();
    for (; j + kWidth <= end; j += kWidth) _mm512_storeu_ps(out + j, decades.decode(codes + j, _mm512_set1_ps(scale)));
#endif
    for (; j < end; ++j) out[j] = values[codes[j]] * scale;
  }
}

// The block's scale, and what its elements are multiplied with; 0 where everything in it becomes 0.
float rescale(const float* x, int64_t n, float& scale) {
  Floats highest{};
  over(n, [&](int64_t j, auto part) {
    const Floats y = part.load(x + j);
    highest = at_least(highest, floats_of(bits_of(y) & 0x7FFFFFFFu));  // NaN does not count
  });
  const float largest = highest_of(highest);
  const bool usable = largest >= std::numeric_limits<float>::min();
  scale = usable ? largest : 0.0f;
  return usable ? 1.0f / largest : 0.0f;
}

// The table look-up stands alone: what is before and behind it vectorises.
template <bool kSigned>
void encode_each(const float* x, int64_t n, float inverse, uint8_t* codes) {
  const DynamicMap& map = dynamic_map<kSigned>();
  uint32_t bits[kStateBlock], cells[kStateBlock];
  for (int64_t j = 0; j < n; ++j) bits[j] = magnitude_bits(x[j], inverse);
  for (int64_t j = 0; j < n; ++j) cells[j] = map.cells[(bits[j] >> 16) - DynamicMap::kFirstCell];
  for (int64_t j = 0; j < n; ++j) codes[j] = code_of<kSigned>(x[j], nearest(cells[j], bits[j]));
}

template <bool kSigned>
void encode(const float* x, Range r, const State8bit& s) {
  uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const int64_t n = std::min(r.n - i, kStateBlock);
    const float inverse = rescale(x + i, n, s.scales.as<float>()[(r.begin + i) / kStateBlock]);
    int64_t j = 0;
#if ATTUNE_DECADES
    const auto& decades = DecadeArithmetic<kSigned>::get();
    for (; j + kWidth <= n; j += kWidth)
      if (!decades.encode(x + i + j, _mm512_set1_ps(inverse), codes + i + j)) encode_each<kSigned>(x + i + j, kWidth, inverse, codes + i + j);
#endif
    encode_each<kSigned>(x + i + j, n - j, inverse, codes + i + j);
  }
}

}  // namespace

void adam_8bit(const Adam8bit& a) {
  const float step = a.of.lr / a.correction1, unbiased = 1.0f / std::sqrt(a.correction2), beta1 = a.beta1, beta2 = a.beta2, eps = a.eps;
  sweep(a.of, [&](Range r, float* p, const float* g, Noise&) {
    float m[kBlock], v[kBlock];
    decode<true>(a.m, r, m);
    decode<false>(a.v, r, v);
    over(r.n, [&](int64_t i, auto part) {
      const Floats gradient = part.load(g + i);
      const Floats first = beta1 * part.load(m + i) + (1.0f - beta1) * gradient;
      const Floats second = beta2 * part.load(v + i) + (1.0f - beta2) * gradient * gradient;
      part.store(first, m + i);
      part.store(second, v + i);
      part.store(part.load(p + i) - step * first / (square_root(second) * unbiased + eps), p + i);
    });
    encode<true>(m, r, a.m);
    encode<false>(v, r, a.v);
  });
}

void lion_8bit(const Lion8bit& a) {
  const float lr = a.of.lr, beta1 = a.beta1, beta2 = a.beta2;
  sweep(a.of, [&](Range r, float* p, const float* g, Noise&) {
    float m[kBlock];
    decode<true>(a.m, r, m);
    for (int64_t i = 0; i < r.n; ++i) {
      const float c = beta1 * m[i] + (1.0f - beta1) * g[i];
      p[i] -= lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
      m[i] = beta2 * m[i] + (1.0f - beta2) * g[i];
    }
    encode<true>(m, r, a.m);
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
