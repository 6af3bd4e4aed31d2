// Root-mean-square norm (Zhang & Sennrich 2019), over the last dimension d, or over each head of d = weight's size.
//
//   forward   r = 1/√(mean(x²) + eps),  y = x·r·(w + offset)
//   backward  g = dy·(w + offset),  dx (+)= r·g − x·r³·mean(g·x),  dw (+)= Σ_rows dy·x·r
//
// fp32 inside, one rounding at the end. Bytes: forward 2·N·d, backward 3·N·d elements. r is kept for backward.
// Gemma stores its norms centred on 0: offset 1.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct RmsNormForward {
  Tensor x;       // [N, heads·d]; one head for a plain norm
  Tensor weight;  // [1,d]
  float eps = 0;
  Tensor y;     // [N, heads·d]
  Tensor rstd;  // f32 [1, N·heads]
  float offset = 0;
};
struct RmsNormBackward {
  Tensor x, weight, rstd, dy;
  Tensor dx;  // undefined: not wanted; may be the same memory as x where it is not added to
  bool accumulate_dx = false;
  Tensor dweight;  // f32 or bf16 [1,d]; undefined: not wanted
  bool accumulate_dweight = false;
  Tensor partial;  // f32 workspace [threads, d]
  float offset = 0;
};

void rms_norm_forward(Context& context, const RmsNormForward& args);
void rms_norm_backward(Context& context, RmsNormBackward args);

}  // namespace attune::ops
