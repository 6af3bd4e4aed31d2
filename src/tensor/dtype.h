// Element types and their conversions. bf16 and fp16 are storage; arithmetic happens in fp32. What is constexpr may be called on
// a GPU too.
#pragma once

#include <bit>
#include <cstdint>
#include <cstddef>
#include <string>
#include <string_view>

namespace attune {

enum class DType : uint8_t { f32, bf16, f16, i32, i64, u8 };

inline constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: case DType::f16: return 2;
    case DType::i64: return 8;
    case DType::u8: return 1;
  }
  return 0;
}

// "float32", "bfloat16", … as in config.json; `parse_dtype` also takes fp32, bf16, fp16, F32, BF16, F16.
const char* name_of(DType t);
DType parse_dtype(std::string_view name, const std::string& where);

struct BFloat16 {
  uint16_t bits = 0;
};
struct Float16 {
  uint16_t bits = 0;
};

[[gnu::always_inline]] constexpr float to_float(float x) { return x; }
[[gnu::always_inline]] constexpr float to_float(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
// Selections instead of branches: loops over these vectorise.
[[gnu::always_inline]] constexpr float to_float(Float16 h) {
  const uint32_t sign = (h.bits & 0x8000u) << 16, shifted = (h.bits & 0x7FFFu) << 13;
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(shifted) * 0x1.0p112f);  // subnormals become normal
  const uint32_t special = shifted | 0x7F800000u;                                               // infinity and NaN
  return std::bit_cast<float>(sign | (shifted >= 0x0F800000u ? special : scaled));
}

// Round to nearest even; NaN stays NaN.
[[gnu::always_inline]] constexpr BFloat16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  return {static_cast<uint16_t>((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded)};
}
[[gnu::always_inline]] constexpr Float16 to_f16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7FFFFFFFu;
  // Subnormal: adding 0.5 aligns the mantissa and rounds to nearest even.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x477FF000u ? special : finite))};  // ≥ 65520 rounds to infinity
}
// Rounds up with a probability equal to the part that is cut off: right on average, so that small updates are not lost.
// `bits`: 16 random bits in the low half.
[[gnu::always_inline]] constexpr BFloat16 to_bf16_stochastic(float x, uint32_t bits) {
  const uint32_t u = std::bit_cast<uint32_t>(x), magnitude = u & 0x7FFFFFFFu;
  const uint32_t added = magnitude < 0x7F800000u ? bits & 0xFFFFu : 0u;  // infinity stays
  const uint32_t quiet = magnitude > 0x7F800000u ? 0x40u : 0u;           // NaN stays
  return {static_cast<uint16_t>((u + added) >> 16 | quiet)};
}

template <class T> struct DTypeOf;
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<BFloat16> { static constexpr DType value = DType::bf16; };
template <> struct DTypeOf<Float16> { static constexpr DType value = DType::f16; };
template <> struct DTypeOf<int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<uint8_t> { static constexpr DType value = DType::u8; };

// Converts `count` contiguous elements between floating types (no-op copy when equal).
void convert(const void* from, DType from_type, void* to, DType to_type, size_t count);

}  // namespace attune
