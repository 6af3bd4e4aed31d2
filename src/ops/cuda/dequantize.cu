#include "ops/dequantize.h"

#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

struct Numbers {
  float of[16];
};

struct FourBits {
  View out;
  const uint8_t *codes, *absmax_codes;
  const float *absmax, *mean, *map;  // map: of the scales' codes; null without double quantization
  int64_t row, column, cols;
  Numbers numbers;
  __device__ float scale(int64_t block) const {
    return map ? map[absmax_codes[block]] * absmax[block / kQuantScaleBlock] + *mean : absmax[block];
  }
  template <int N>
  __device__ void at(int64_t i, int64_t j) const {
    const int64_t first = (row + i) * cols + column + j;
    float x[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int64_t e = first + k;
      const uint8_t byte = codes[e / 2];
      x[k] = numbers.of[e % 2 ? byte & 15 : byte >> 4] * scale(e / kQuantBlock);
    }
    store(x, out, i, j);
  }
};

struct EightBits {
  View out;
  const uint8_t* codes;
  const float* absmax;
  int64_t row, column, cols;
  template <int N>
  __device__ void at(int64_t i, int64_t j) const {
    const float most = absmax[row + i], step = 1.0f / 127.0f;
    const uint8_t* from = codes + (row + i) * cols + column + j;
    float x[N];
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] = static_cast<float>(static_cast<int8_t>(from[k])) * most * step;  // two products, as bitsandbytes
    store(x, out, i, j);
  }
};

}  // namespace

void dequantize(const Dequantize& a) {
  const QuantizedMatrix& m = a.from;
  const bool is_wide = wide(a.out.cols, {a.out});
  if (!m.how.four_bits()) {
    over_elements("dequantize", a.out.rows.count, a.out.cols, is_wide, EightBits{a.out, m.codes, m.absmax, a.row, a.column, m.cols});
    return;
  }
  Numbers numbers{};
  std::copy_n(code_table(m.how.type).data(), 16, numbers.of);
  const float* map = m.how.double_quantization ? device().tables()->with_sign.values.data() : nullptr;
  over_elements("dequantize", a.out.rows.count, a.out.cols, is_wide,
                FourBits{a.out, m.codes, m.absmax_codes, m.absmax, m.how.double_quantization ? m.absmax + m.scale_blocks() : nullptr, map, a.row, a.column, m.cols, numbers});
}

}  // namespace attune::ops::cuda
