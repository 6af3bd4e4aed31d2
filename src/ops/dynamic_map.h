// The 8-bit "dynamic" data type of optimizer states (Dettmers et al. 2022, as bitsandbytes' create_dynamic_map): 256 numbers
// in [−1, 1] or [0, 1], seven decades of them, with twice as many steps in each larger decade. A block of a tensor is
// its largest absolute value and one code an element.
#pragma once

#include <array>
#include <cstdint>

namespace attune::ops {

struct DynamicMap {
  std::array<float, 256> values;  // by code, ascending

  // The code nearest to a number in [2⁻²³, 1] (by magnitude, in the signed map) without a search: the float's upper 16
  // bits choose a cell, which holds at most one border between two codes: code of its beginning << 16 | lower 16 bits
  // of the border. A number on the border belongs to the lower code.
  static constexpr uint32_t kFirstCell = (127 - 23) << 7, kLastCell = 127 << 7;
  std::array<uint32_t, kLastCell - kFirstCell + 1> cells;

  static const DynamicMap& with_sign();  // code 127 is 0; magnitude k is 127 ± k
  static const DynamicMap& unsigned_();  // code 0 is 0
};

inline constexpr int64_t kStateBlock = 256;  // elements that share a scale
inline int64_t state_blocks(int64_t count) { return (count + kStateBlock - 1) / kStateBlock; }

}  // namespace attune::ops
