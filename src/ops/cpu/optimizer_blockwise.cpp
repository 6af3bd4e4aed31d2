#include "ops/cpu/sweep.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr float kLeast = 0x1.0p-23f;  // below every border of the maps

void decode(const State8bit& s, const DynamicMap& map, Range r, float* out) {
  const uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  const float* values = map.values.data();
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const float scale = s.scales.as<float>()[(r.begin + i) / kStateBlock];
    const int64_t end = std::min(r.n, i + kStateBlock);
    for (int64_t j = i; j < end; ++j) out[j] = values[codes[j]] * scale;
  }
}

// The block's scale, and what its elements are multiplied with; 0 where everything in it becomes 0.
float rescale(const float* x, int64_t n, float& scale) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const bool usable = largest >= std::numeric_limits<float>::min();
  scale = usable ? largest : 0.0f;
  return usable ? 1.0f / largest : 0.0f;
}

// codes ← finish(x, number of borders below |x|·inverse, which is the nearest magnitude). The table look-up stands alone:
// what is before and behind it vectorises. Its index is bounded for every x, NaN included.
template <class F>
void encode(const float* x, Range r, const State8bit& s, const DynamicMap& map, F&& finish) {
  uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const int64_t n = std::min(r.n - i, kStateBlock);
    const float inverse = rescale(x + i, n, s.scales.as<float>()[(r.begin + i) / kStateBlock]);
    uint32_t bits[kStateBlock], cells[kStateBlock];
    for (int64_t j = 0; j < n; ++j) {
      const float y = std::fabs(x[i + j]) * inverse, above = y > kLeast ? y : kLeast, bounded = above < 1.0f ? above : 1.0f;
      bits[j] = std::bit_cast<uint32_t>(bounded);
    }
    for (int64_t j = 0; j < n; ++j) cells[j] = map.cells[(bits[j] >> 16) - DynamicMap::kFirstCell];
    for (int64_t j = 0; j < n; ++j) {
      const uint32_t k = (cells[j] >> 16) + ((bits[j] & 0xFFFFu) > (cells[j] & 0xFFFFu) ? 1u : 0u);
      codes[i + j] = static_cast<uint8_t>(finish(x[i + j], k));
    }
  }
}

void encode_signed(const float* x, Range r, const State8bit& s) {
  encode(x, r, s, DynamicMap::with_sign(), [](float y, uint32_t k) {
    const uint32_t most = k < 127 ? k : 127, below = most > 1 ? most : 1;
    return std::bit_cast<uint32_t>(y) >> 31 ? 127 - below : 127 + k;
  });
}

void encode_unsigned(const float* x, Range r, const State8bit& s) {
  encode(x, r, s, DynamicMap::unsigned_(), [](float, uint32_t k) { return k; });
}

}  // namespace

void adam_8bit(const Adam8bit& a) {
  const float step = a.of.lr / a.correction1, unbiased = 1.0f / std::sqrt(a.correction2);
  sweep(a.of, [&](Range r, float* p, const float* g, Noise&) {
    float m[kBlock], v[kBlock];
    decode(a.m, DynamicMap::with_sign(), r, m);
    decode(a.v, DynamicMap::unsigned_(), r, v);
    for (int64_t i = 0; i < r.n; ++i) {
      m[i] = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
      v[i] = a.beta2 * v[i] + (1.0f - a.beta2) * g[i] * g[i];
      p[i] -= step * m[i] / (std::sqrt(v[i]) * unbiased + a.eps);
    }
    encode_signed(m, r, a.m);
    encode_unsigned(v, r, a.v);
  });
}

void lion_8bit(const Lion8bit& a) {
  sweep(a.of, [&](Range r, float* p, const float* g, Noise&) {
    float m[kBlock];
    decode(a.m, DynamicMap::with_sign(), r, m);
    for (int64_t i = 0; i < r.n; ++i) {
      const float c = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
      p[i] -= a.of.lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
      m[i] = a.beta2 * m[i] + (1.0f - a.beta2) * g[i];
    }
    encode_signed(m, r, a.m);
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
