// A rectangle of a quantised matrix (tensor/quantized.h) as numbers:
//
//   out[i, j] = W[row + i, column + j]      nf4, fp4: table[code]·absmax     int8: code·absmax/127
//
// in fp32, rounded once. Reads half a byte (int8: one) and writes an element of `out` each.
#pragma once

#include "ops/context.h"
#include "tensor/quantized.h"

namespace attune::ops {

struct Dequantize {
  QuantizedMatrix from;
  int64_t row = 0, column = 0;
  Tensor out;  // [n, m] f32, bf16 or fp16
};
void dequantize(Context& context, const Dequantize& args);

// y = x·Wᵀ of few rows with a whole quantised matrix, which is never written down: one token after the other is decoded so.
//
//   y[i, j] = Σ_k x[i, k]·W[j, k]      W the numbers of `dequantize` in the type of x; sums in fp32
//
// Reads the codes once for all rows. 2·m·n·k FLOPs.
struct QuantizedProduct {
  Tensor x, y;  // [m, k], f32 or bf16; [m, n]
  QuantizedMatrix w;  // [n, k], 4 bits, k a multiple of kQuantBlock
};
// Whether the backend has it for this many rows (by capacity) of this type, and is faster with it.
bool has_quantized_product(const Context& context, const Tensor& x, const QuantizedMatrix& w);
void quantized_product(Context& context, const QuantizedProduct& args);

// With workspace: what the dispatcher hands over.
struct QuantizedProductCall {
  QuantizedProduct args;
  float* workspace = nullptr;  // m·k
};
inline constexpr int64_t kMostProductRows = 8;

}  // namespace attune::ops
