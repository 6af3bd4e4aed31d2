// Optimizer sweeps: each tensor is read and written once (Adafactor reads its gradient three times).
//
// What is stored in bf16 without an fp32 master is rounded stochastically: an update far below the distance between two
// bf16 numbers still moves the weight on average. The bits are a function of (rounding_key, element), nothing else.
#pragma once

#include "ops/context.h"

namespace attune::ops {

// What every optimizer steps. All tensors have the same number of elements.
//   g ← grad_scale·gradient;  decoupled decay: p ← p − lr·(weight_decay·p + anchor_decay·(p − anchor));
//   coupled decay: g ← g + weight_decay·p + anchor_decay·(p − anchor)
struct Stepped {
  Tensor parameter;  // f32 (the weight itself or its master) or bf16
  Tensor copy;       // the narrower weight to refresh from the master, or undefined
  Tensor gradient;   // f32, bf16 or fp16
  Tensor anchor;     // weights to stay near (any floating type), or undefined
  float grad_scale = 1, lr = 0, weight_decay = 0, anchor_decay = 0;
  bool decoupled = true;
  uint64_t rounding_key = 0;
  // Where the tensors begin within the whole parameter: random bits and blocks of 8-bit states count from its start, so
  // that a parameter stepped in slabs of rows gets the numbers of one stepped whole.
  int64_t first_element = 0;

  // The step of `n` rows alone, whose gradient is for the caller to set.
  Stepped rows(int64_t first_row, int64_t n) const {
    Stepped s = *this;
    for (Tensor* t : {&s.parameter, &s.copy, &s.anchor})
      if (t->defined()) *t = t->slice(first_row, n);
    s.gradient = {};
    s.first_element += first_row * parameter.cols;
    return s;
  }
};

// Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019), as torch.optim.Adam and AdamW:
//   m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← max(w, v) with amsgrad, else v
//   p ← p − lr/c₁ · m / (√w/√c₂ + eps),  cᵢ = 1 − βᵢᵗ
// 30 bytes a parameter with fp32 states and a bf16 copy.
struct Adam {
  Stepped of;
  Tensor m, v, highest;  // f32 or bf16; `highest` (amsgrad) may be undefined
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float correction1 = 1, correction2 = 1;  // c₁, c₂
};
void adam(Context& context, const Adam& args);

// torch.optim.SGD: buffer ← g at the first step, then momentum·buffer + g; p ← p − lr·buffer, or with nesterov
// p ← p − lr·(g + momentum·buffer). Without momentum no buffer.
struct Sgd {
  Stepped of;
  Tensor buffer;
  float momentum = 0;
  bool nesterov = false, first = false;
};
void sgd(Context& context, const Sgd& args);

// Lion (Chen et al. 2023): p ← p − lr·sign(β₁m + (1−β₁)g);  m ← β₂m + (1−β₂)g.
struct Lion {
  Stepped of;
  Tensor m;
  float beta1 = 0.9f, beta2 = 0.99f;
};
void lion(Context& context, const Lion& args);

// Adafactor (Shazeer & Stern 2018) without momentum, as transformers' Adafactor: for a matrix
//   r ← βr + (1−β)·mean_cols(g² + eps);  c ← βc + (1−β)·mean_rows(g² + eps);  u = g / √(r·c / mean(r))
// for a vector v ← βv + (1−β)(g² + eps), u = g/√v; then p ← p − lr·u / max(1, rms(u)/clip_threshold).
// With scale_parameter lr is multiplied by max(eps_scale, rms(p)).
struct Adafactor {
  Stepped of;
  Tensor rows, cols;  // f32 [1,R], [1,C] for a matrix, or
  Tensor v;           // f32 for a vector
  float beta = 0, eps = 1e-30f, eps_scale = 1e-3f, clip_threshold = 1;
  bool scale_parameter = false;
  // Workspace, set by the dispatcher. The sums over rows are made in fixed parts: the same for every thread count.
  static constexpr int64_t kParts = 32;
  Tensor partial, row_factor, col_factor;  // f32 [kParts, C], [1,R], [1,C]
};
void adafactor(Context& context, Adafactor args);

// sum ← Σ x² in double, over fixed blocks: the same for every thread count. `sum` lies where x does.
struct SquaredNorm {
  Tensor x;
  double* sum = nullptr;
  double* partial = nullptr;  // workspace, one per block; set by the dispatcher
};
inline constexpr int64_t kSquaredNormBlock = 1 << 16;
void squared_norm(Context& context, SquaredNorm args);
// The same, looked at: waits for the device. 0 in dry mode.
double squared_norm(Context& context, const Tensor& x);

}  // namespace attune::ops
