#include "tensor/quantized.h"

#include "util/error.h"

namespace attune {
namespace {

uint64_t aligned(int64_t bytes) { return (static_cast<uint64_t>(bytes) + 63) / 64 * 64; }

struct Layout {
  uint64_t codes, absmax, absmax_codes;
};
Layout layout_of(const QuantizedMatrix& m) {
  const int64_t floats = m.how.double_quantization ? m.scale_blocks() + 1 : m.scales();
  return {aligned(m.how.four_bits() ? (m.count() + 1) / 2 : m.count()), aligned(floats * static_cast<int64_t>(sizeof(float))),
          aligned(m.how.double_quantization ? m.scales() : 0)};
}

constexpr QuantType kTypes[] = {QuantType::none, QuantType::nf4, QuantType::fp4, QuantType::int8};
constexpr const char* kNames[] = {"none", "nf4", "fp4", "int8"};

}  // namespace

double Quantization::bits() const {
  if (type == QuantType::int8) return 8;
  if (!on()) return 0;
  return 4 + (double_quantization ? 8.0 + 32.0 / kQuantScaleBlock : 32.0) / kQuantBlock;
}

std::string text_of(const Quantization& how) {
  return std::string(kNames[static_cast<size_t>(how.type)]) + (how.double_quantization ? "-double" : "");
}

Quantization parse_quantization(const std::string& text, const std::string& where) {
  for (QuantType type : kTypes)
    for (bool twice : {false, true})
      if (const Quantization how{type, twice}; text == text_of(how) && (!twice || how.four_bits())) return how;
  refuse("{}: \"{}\" is no way to hold weights; known are nf4-double (QLoRA), nf4, fp4-double, fp4, int8 and none", where, text);
}

const std::array<float, 16>& code_table(QuantType type) {
  // Quantiles of the normal distribution, as the paper and bitsandbytes give them.
  static const std::array<float, 16> nf4{-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};
  // Sign, two bits of exponent, one of mantissa, scaled to a largest magnitude of 1; not in the order of the numbers.
  static const std::array<float, 16> fp4 = [] {
    std::array<float, 16> t{0.0f, 0.0625f, 8.0f, 12.0f, 4.0f, 6.0f, 2.0f, 3.0f};
    for (size_t i = 0; i < 8; ++i) t[i] /= 12.0f, t[i + 8] = -t[i];
    return t;
  }();
  return type == QuantType::fp4 ? fp4 : nf4;
}

uint64_t QuantizedMatrix::bytes(const Quantization& how, int64_t rows, int64_t cols) {
  const Layout l = layout_of({how, rows, cols});
  return l.codes + l.absmax + l.absmax_codes;
}

QuantizedMatrix QuantizedMatrix::over(void* memory, const Quantization& how, int64_t rows, int64_t cols) {
  QuantizedMatrix m{how, rows, cols};
  const Layout l = layout_of(m);
  m.codes = static_cast<uint8_t*>(memory);
  m.absmax = reinterpret_cast<float*>(m.codes + l.codes);
  if (how.double_quantization) m.absmax_codes = m.codes + l.codes + l.absmax;
  return m;
}

}  // namespace attune
