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

}  // namespace attune::ops
