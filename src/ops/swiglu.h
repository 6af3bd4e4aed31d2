// Gated activations: SwiGLU, and GEGLU in its tanh form (Shazeer 2020).
//
//   forward   y = a(g)·u;  [g | u] are the two halves of x[N,2f]
//   backward  dg = dy·u·a'(g),  du = dy·a(g)
//   silu       a = g·σ(g),  a' = σ(g)·(1 + g·(1 − σ(g)))
//   gelu_tanh  a = g/2·(1 + t),  t = tanh(√(2/π)·(g + 0.044715·g³)),  a' = (1 + t)/2 + g/2·(1 − t²)·√(2/π)·(1 + 0.134145·g²)
//
// dx may be the same memory as x. Bytes: forward 3·N·f, backward 5·N·f elements.
#pragma once

#include "ops/context.h"

namespace attune::ops {

enum class GateActivation { silu, gelu_tanh };

struct SwigluForward {
  Tensor x;  // [N,2f]
  Tensor y;  // [N,f]
  GateActivation activation = GateActivation::silu;
};
struct SwigluBackward {
  Tensor x, dy;
  Tensor dx;  // [N,2f]
  GateActivation activation = GateActivation::silu;
};

void swiglu_forward(Context& context, const SwigluForward& args);
void swiglu_backward(Context& context, const SwigluBackward& args);

}  // namespace attune::ops
