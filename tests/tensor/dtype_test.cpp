// bf16 and fp16 over all of their 2¹⁶ values, and rounding to nearest even.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tensor/dtype.h"
#include "util/error.h"

namespace attune {
namespace {

double f16_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double sign = h & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(mantissa, -24) : sign * std::ldexp(1024 + mantissa, exponent - 25);
}
double bf16_value(uint16_t b) {
  const int exponent = (b >> 7) & 255, mantissa = b & 127;
  const double sign = b & 0x8000 ? -1 : 1;
  if (exponent == 255) return mantissa ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(mantissa, -133) : sign * std::ldexp(128 + mantissa, exponent - 134);
}

TEST(DType, EveryBf16AndF16ValueConvertsExactlyAndBack) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float b = to_float(BFloat16{bits}), h = to_float(Float16{bits});
    if (std::isnan(bf16_value(bits))) {
      EXPECT_TRUE(std::isnan(b) && std::isnan(to_float(to_bf16(b)))) << i;
    } else {
      ASSERT_EQ(static_cast<double>(b), bf16_value(bits)) << i;
      ASSERT_EQ(to_bf16(b).bits, bits);
    }
    if (std::isnan(f16_value(bits))) {
      EXPECT_TRUE(std::isnan(h) && std::isnan(to_float(to_f16(h)))) << i;
    } else {
      ASSERT_EQ(static_cast<double>(h), f16_value(bits)) << i;
      ASSERT_EQ(to_f16(h).bits, bits);
    }
  }
}

// Between each two neighbours: below the middle goes down, above goes up, the middle goes to the even one.
template <class Round>
void check_rounding(uint32_t largest, double (*value)(uint16_t), Round round) {
  for (uint32_t i = 0; i < largest; ++i)
    for (uint32_t sign : {0u, 0x8000u}) {
      const auto low = static_cast<uint16_t>(i | sign), high = static_cast<uint16_t>((i + 1) | sign);
      const auto middle = static_cast<float>((value(low) + value(high)) / 2);
      ASSERT_EQ(static_cast<double>(middle), (value(low) + value(high)) / 2);
      const float away = sign ? -INFINITY : INFINITY;
      ASSERT_EQ(round(middle).bits, i % 2 ? high : low) << i;
      ASSERT_EQ(round(std::nextafterf(middle, 0.0f)).bits, low) << i;
      ASSERT_EQ(round(std::nextafterf(middle, away)).bits, high) << i;
    }
}

TEST(DType, RoundingIsToNearestEven) {
  check_rounding(0x7F7F, bf16_value, [](float x) { return to_bf16(x); });
  check_rounding(0x7BFF, f16_value, [](float x) { return to_f16(x); });
}

TEST(DType, OverflowGoesToInfinityAndTinyNumbersToSignedZero) {
  EXPECT_EQ(to_f16(65519.996f).bits, 0x7BFF);
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7C00);
  EXPECT_EQ(to_f16(-1e30f).bits, 0xFC00);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_EQ(to_f16(0x1p-25f).bits, 0);
  EXPECT_EQ(to_f16(std::nextafterf(0x1p-25f, 1)).bits, 1);
  EXPECT_EQ(to_f16(-1e-30f).bits, 0x8000);
  // A NaN whose upper mantissa bits are zero stays one.
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7F800001u)))));
  EXPECT_TRUE(std::isnan(to_float(to_f16(std::bit_cast<float>(0x7F800001u)))));
}

TEST(DType, ConvertGoesThroughEveryPair) {
  const std::vector<float> values{0, 1, -2.5f, 1000};
  for (DType a : {DType::f32, DType::bf16, DType::f16})
    for (DType b : {DType::f32, DType::bf16, DType::f16}) {
      std::vector<char> x(16), y(16);
      std::vector<float> back(4);
      convert(values.data(), DType::f32, x.data(), a, 4);
      convert(x.data(), a, y.data(), b, 4);
      convert(y.data(), b, back.data(), DType::f32, 4);
      EXPECT_EQ(back, values);
    }
  EXPECT_THROW(convert(values.data(), DType::i32, std::vector<float>(4).data(), DType::f32, 1), Error);
}

TEST(DType, NamesParseInEverySpelling) {
  for (const char* name : {"float32", "fp32", "F32"}) EXPECT_EQ(parse_dtype(name, "x"), DType::f32);
  for (const char* name : {"bfloat16", "bf16", "BF16"}) EXPECT_EQ(parse_dtype(name, "x"), DType::bf16);
  for (const char* name : {"float16", "fp16", "F16"}) EXPECT_EQ(parse_dtype(name, "x"), DType::f16);
  try {
    parse_dtype("int3", "config.json: dtype");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("config.json: dtype"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("int3"), std::string::npos);
  }
}

}  // namespace
}  // namespace attune
