// Matrix product.
//
//   C[M,N] (+)= op(A)·op(B)      op(X) = X or Xᵀ
//
// The three roles of a linear layer y = x·Wᵀ, W[out,in]:
//   forward          Y[N,out]  = X[N,in] · Wᵀ            (transpose_b)
//   input gradient   dX[N,in]  = dY[N,out] · W
//   weight gradient  dW[out,in] += dYᵀ[out,N] · X[N,in]  (transpose_a)
//
// FLOPs 2·M·N·K; bytes at least those of A, B and C. A, B and C are f32, bf16 or fp16; sums are fp32
// and are rounded once (accumulating into a bf16 C rounds the sum). Deterministic for a given thread count.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct Gemm {
  Tensor a, b, c;
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
};

void gemm(Context& context, const Gemm& args);

// With workspace for the backend: what the dispatcher hands over.
struct GemmCall {
  Gemm args;
  void* workspace = nullptr;
};

}  // namespace attune::ops
