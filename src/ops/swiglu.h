// SwiGLU gate (Shazeer 2020).
//
//   forward   y = silu(g)·u,  silu(g) = g·σ(g);  [g | u] are the two halves of x[N,2f]
//   backward  dg = dy·u·σ(g)·(1 + g·(1 − σ(g))),  du = dy·silu(g)
//
// dx may be the same memory as x. Bytes: forward 3·N·f, backward 5·N·f elements.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct SwigluForward {
  Tensor x;  // [N,2f]
  Tensor y;  // [N,f]
};
struct SwigluBackward {
  Tensor x, dy;
  Tensor dx;  // [N,2f]
};

void swiglu_forward(Context& context, const SwigluForward& args);
void swiglu_backward(Context& context, const SwigluBackward& args);

}  // namespace attune::ops
