#include "ops/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "ops/dynamic_map.h"

namespace attune::ops {
namespace {

constexpr float kLeast = 1e-38f;

// The largest magnitude; not finite where one number is not.
float largest(const float* x, int64_t n) {
  uint32_t most = 0;  // magnitudes are in the order of their bits
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
  return std::bit_cast<float>(most);
}

// The codes in the order of their numbers, and the borders between these.
struct Borders {
  std::array<uint8_t, 16> code{};
  std::array<float, 15> at{};
};

Borders borders_of(QuantType type) {
  const auto& table = code_table(type);
  Borders b;
  for (uint8_t i = 0; i < 16; ++i) b.code[i] = i;
  // fp4 has two zeros: 0 takes the positive one, what is negative the other.
  const auto order = [&](uint8_t code) { return std::pair(table[code], !std::signbit(table[code])); };
  std::sort(b.code.begin(), b.code.end(), [&](uint8_t x, uint8_t y) { return order(x) < order(y); });
  for (size_t i = 0; i < 15; ++i) {
    const float below = table[b.code[i]], above = table[b.code[i + 1]];
    b.at[i] = below == above ? -std::numeric_limits<float>::denorm_min() : (below + above) / 2;
  }
  return b;
}

const Borders& borders(QuantType type) {
  static const Borders nf4 = borders_of(QuantType::nf4), fp4 = borders_of(QuantType::fp4);
  return type == QuantType::fp4 ? fp4 : nf4;
}

// Codes of one block; `out` begins with a whole byte. Loops of a fixed length, which vectorise.
void encode_block(const Borders& b, const float* x, int64_t n, float absmax, uint8_t* out) {
  const float inverse = 1.0f / std::max(absmax, kLeast);
  float y[kQuantBlock] = {};
  std::copy_n(x, n, y);
  for (float& value : y) value *= inverse;
  int32_t place[kQuantBlock] = {};
  for (float border : b.at)
    for (int64_t i = 0; i < kQuantBlock; ++i) place[i] += y[i] > border;
  const auto code = [&](int64_t i) { return b.code[static_cast<size_t>(place[i])]; };
  for (int64_t i = 0; i < n; i += 2) out[i / 2] = static_cast<uint8_t>(code(i) << 4 | (i + 1 < n ? code(i + 1) : 0));
}

void encode_row(const float* x, int64_t n, float absmax, uint8_t* out) {
  constexpr float kRound = 12582912.0f;  // 1.5·2²³: what is added to it is rounded to a whole number
  const float scale = 127.0f / std::max(absmax, 127 * kLeast);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(static_cast<int8_t>((x[i] * scale + kRound) - kRound));
}

}  // namespace

bool Quantizer::add(const float* values, int64_t rows) {
  const int64_t cols = into_.cols, count = rows * cols;
  const bool by_row = into_.how.type == QuantType::int8;
  // What shares a scale.
  const int64_t length = by_row ? cols : kQuantBlock, groups = (count + length - 1) / length, first = row_ * cols / length;
  float* absmax = into_.how.double_quantization ? absmax_.data() : into_.absmax;
  const Borders& b = borders(into_.how.type);
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t g = 0; g < groups; ++g) {
    const float* x = values + g * length;
    const int64_t n = std::min(length, count - g * length), at = first + g;
    const float most = absmax[at] = largest(x, n);
    finite = finite && std::isfinite(most);
    if (!std::isfinite(most)) continue;
    if (by_row) encode_row(x, n, most, into_.codes + at * length);
    else encode_block(b, x, n, most, into_.codes + at * (length / 2));
  }
  row_ += rows;
  return finite;
}

void Quantizer::finish() {
  if (!into_.how.double_quantization) return;
  double sum = 0;
  for (float x : absmax_) sum += x;
  const float mean = into_.mean() = static_cast<float>(sum / static_cast<double>(std::max<size_t>(1, absmax_.size())));
  for (float& x : absmax_) x -= mean;
  // Not by the map's cells, in which a negative number never becomes 0.
  const auto& values = DynamicMap::with_sign().values;
  std::array<float, 255> border;
  for (size_t i = 0; i < border.size(); ++i) border[i] = (values[i] + values[i + 1]) / 2;
  const auto scales = static_cast<int64_t>(absmax_.size());
  for (int64_t first = 0; first < scales; first += kQuantScaleBlock) {
    const float* x = absmax_.data() + first;
    const int64_t n = std::min(kQuantScaleBlock, scales - first);
    const float most = into_.absmax[first / kQuantScaleBlock] = largest(x, n), inverse = 1.0f / std::max(most, kLeast);
    for (int64_t i = 0; i < n; ++i)
      into_.absmax_codes[first + i] = static_cast<uint8_t>(std::lower_bound(border.begin(), border.end(), x[i] * inverse) - border.begin());
  }
}

}  // namespace attune::ops
