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

// Number of borders below y: the nearest code. Bounded for every y, NaN included.
[[gnu::always_inline]] inline uint32_t nearest(const uint32_t* cells, float y) {
  const float bounded = y > kLeast ? std::min(y, 1.0f) : kLeast;
  const uint32_t bits = std::bit_cast<uint32_t>(bounded);
  const uint32_t cell = cells[(bits >> 16) - DynamicMap::kFirstCell];
  return (cell >> 16) + ((bits & 0xFFFFu) > (cell & 0xFFFFu) ? 1u : 0u);
}

void encode_signed(const float* x, Range r, const State8bit& s) {
  uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  const uint32_t* cells = DynamicMap::with_sign().cells.data();
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const int64_t end = std::min(r.n, i + kStateBlock);
    const float inverse = rescale(x + i, end - i, s.scales.as<float>()[(r.begin + i) / kStateBlock]);
    for (int64_t j = i; j < end; ++j) {
      const uint32_t k = nearest(cells, std::fabs(x[j]) * inverse);
      const bool negative = std::bit_cast<uint32_t>(x[j]) >> 31;
      const uint32_t below = std::min(std::max(k, 1u), 127u);
      codes[j] = static_cast<uint8_t>(negative ? 127u - below : 127u + k);
    }
  }
}

void encode_unsigned(const float* x, Range r, const State8bit& s) {
  uint8_t* codes = s.codes.as<uint8_t>() + r.begin;
  const uint32_t* cells = DynamicMap::unsigned_().cells.data();
  for (int64_t i = 0; i < r.n; i += kStateBlock) {
    const int64_t end = std::min(r.n, i + kStateBlock);
    const float inverse = rescale(x + i, end - i, s.scales.as<float>()[(r.begin + i) / kStateBlock]);
    for (int64_t j = i; j < end; ++j) codes[j] = static_cast<uint8_t>(nearest(cells, x[j] * inverse));
  }
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
