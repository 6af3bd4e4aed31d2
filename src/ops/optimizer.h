// Optimizer sweeps: each tensor is read and written once.
#pragma once

#include "ops/context.h"

namespace attune::ops {

// AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW:
//   g ← grad_scale·grad;  p ← p·(1 − lr·weight_decay)
//   m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  p ← p − lr/c₁ · m / (√v/√c₂ + eps),  cᵢ = 1 − βᵢᵗ
// All tensors have the same number of elements; 30 bytes a parameter with a bf16 copy.
struct AdamW {
  Tensor parameter;  // f32: the weight itself or its master
  Tensor copy;       // bf16 weight to refresh from the master, or undefined
  Tensor gradient;   // f32 or bf16
  Tensor m, v;       // f32
  float grad_scale = 1, lr = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;  // c₁, c₂
};
void adamw(Context& context, const AdamW& args);

// p ← p·(1 − lr·weight_decay) − lr·grad_scale·grad
struct Sgd {
  Tensor parameter;
  Tensor copy;
  Tensor gradient;
  float grad_scale = 1, lr = 0, weight_decay = 0;
};
void sgd(Context& context, const Sgd& args);

// Σ x² in double, summed over fixed blocks: the same for every thread count. Returns 0 in dry mode.
struct SquaredNorm {
  Tensor x;
  double* partial = nullptr;  // workspace, one per block; set by the dispatcher
};
inline constexpr int64_t kSquaredNormBlock = 1 << 16;
double squared_norm(Context& context, const Tensor& x);

}  // namespace attune::ops
