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

// y = x·Wᵀ of up to kMostProductRows rows: a warp a column of y, whose codes it reads once, eight to a lane.
__global__ void __launch_bounds__(kThreads) few_rows(FourBits w, View x, bool wide, View y, int64_t rows, int64_t columns) {
  constexpr int kMost = static_cast<int>(kMostProductRows);
  const int64_t j = warp_row();
  if (j >= columns) return;
  float sum[kMost] = {};
  for (int64_t k = lane() * kWide; k < w.cols; k += kWarp * kWide) {
    const int64_t first = j * w.cols + k;  // a multiple of eight, so all have one scale
    const uint32_t codes = *reinterpret_cast<const uint32_t*>(w.codes + first / 2);
    const float scale = w.scale(first / kQuantBlock);
    float number[kWide];
#pragma unroll
    for (int e = 0; e < kWide; ++e) {
      number[e] = w.numbers.of[codes >> (e / 2 * 8 + (e % 2 ? 0 : 4)) & 15] * scale;
      if (x.dtype == DType::bf16) number[e] = to_float(to_bf16(number[e]));
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= rows) break;
      float value[kWide];
      if (wide) load(x, i, k, value);
      else
        for (int e = 0; e < kWide; ++e) value[e] = element(x, i, k + e);
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum[i] += value[e] * number[e];
    }
  }
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    if (i >= rows) break;
    const float total = warp_sum(sum[i]);
    if (lane() == 0) put(total, y, i, j);
  }
}

FourBits four_bits(const QuantizedMatrix& m) {
  FourBits f{};
  std::copy_n(code_table(m.how.type).data(), 16, f.numbers.of);
  f.codes = m.codes, f.absmax_codes = m.absmax_codes, f.absmax = m.absmax, f.cols = m.cols;
  if (m.how.double_quantization) f.mean = m.absmax + m.scale_blocks(), f.map = device().tables()->with_sign.values.data();
  return f;
}

}  // namespace

void quantized_product(const QuantizedProductCall& call) {
  const QuantizedProduct& a = call.args;
  launch("quantized_product", warp_rows(a.w.rows), few_rows, four_bits(a.w), a.x, wide(a.w.cols, {a.x}), a.y, a.x.rows.count, a.w.rows);
}

void dequantize(const Dequantize& a) {
  const QuantizedMatrix& m = a.from;
  const bool is_wide = wide(a.out.cols, {a.out});
  if (!m.how.four_bits()) {
    over_elements("dequantize", a.out.rows.count, a.out.cols, is_wide, EightBits{a.out, m.codes, m.absmax, a.row, a.column, m.cols});
    return;
  }
  FourBits f = four_bits(m);
  f.out = a.out, f.row = a.row, f.column = a.column;
  over_elements("dequantize", a.out.rows.count, a.out.cols, is_wide, f);
}

}  // namespace attune::ops::cuda
