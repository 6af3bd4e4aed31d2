#include "ops/dynamic_map.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "util/error.h"

namespace attune::ops {
namespace {

// 0, the seven decades, 1. The signed map has half of the steps in each: the other half is negative.
std::vector<float> magnitudes(bool with_sign) {
  std::vector<float> out{0.0f};
  for (int decade = 0; decade < 7; ++decade) {
    const int steps = (with_sign ? 1 : 2) << decade;
    for (int j = 0; j < steps; ++j)
      out.push_back(static_cast<float>(std::pow(10.0, decade - 6) * (0.1 + 0.9 * (j + 0.5) / steps)));
  }
  out.push_back(1.0f);
  return out;
}

DynamicMap make(bool with_sign) {
  const std::vector<float> m = magnitudes(with_sign);
  DynamicMap map;
  for (size_t i = 0; i < 256; ++i) {
    if (!with_sign) map.values[i] = m[i];
    else map.values[i] = i >= 127 ? m[i - 127] : -m[127 - i];
  }
  std::vector<uint32_t> borders;
  for (size_t i = 0; i + 1 < m.size(); ++i) borders.push_back(std::bit_cast<uint32_t>((m[i] + m[i + 1]) * 0.5f));
  for (uint32_t c = DynamicMap::kFirstCell; c <= DynamicMap::kLastCell; ++c) {
    const auto first = std::lower_bound(borders.begin(), borders.end(), c << 16);
    const auto end = std::lower_bound(borders.begin(), borders.end(), (c + 1) << 16);
    if (end - first > 1) fail("internal error: two borders in one cell of the 8-bit map");
    const auto code = static_cast<uint32_t>(first - borders.begin());
    map.cells[c - DynamicMap::kFirstCell] = code << 16 | (first == end ? 0xFFFFu : *first & 0xFFFFu);
  }
  return map;
}

}  // namespace

const DynamicMap& DynamicMap::with_sign() {
  static const DynamicMap map = make(true);
  return map;
}

const DynamicMap& DynamicMap::unsigned_() {
  static const DynamicMap map = make(false);
  return map;
}

}  // namespace attune::ops
