// Token log-probabilities and their gradient, over a chunk of logits in fp32.
//
//   lse = log Σ_v exp(z_v),  logp = z_label − lse − z_loss·(max_v z)²
//   dz_v = coefficient·(exp(z_v − lse) − [v = label] + [v = argmax z]·2·z_loss·max z)
//
// With label smoothing ε the target is (1−ε) on the label and ε/V on every word (Szegedy et al. 2016, as transformers):
//   logp = (1−ε)·z_label + ε·mean(z) − lse,  dz_v = coefficient·(exp(z_v − lse) − (1−ε)[v = label] − ε/V)
//
// The gradient overwrites the logits in place, in the compute dtype (a bf16 gradient lies in the first half of each
// fp32 row). coefficient = weight/Σweight for a mean loss, −dlogp in general. Bytes: two passes over the chunk.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct TokenLogprob {
  Tensor logits;  // f32 [R,V]
  Tensor labels;  // i32 [1,R], each in [0,V)
  Tensor logp;    // f32 [1,R]
  Tensor lse;     // f32 [1,R]
  Tensor correct = {};  // f32 [1,R]: 1 where no word is likelier than the label, else 0; may be undefined
  float smoothing = 0;
  float z_loss = 0;
};
void token_logprob(Context& context, const TokenLogprob& args);

struct LogitGradient {
  Tensor logits;       // f32 [R,V]
  Tensor labels;       // i32 [1,R]
  Tensor lse;          // f32 [1,R]
  Tensor coefficient;  // f32 [1,R]
  DType dtype = DType::f32;
  float smoothing = 0;
  float z_loss = 0;
};
// Returns the gradient: a view of the logits' memory.
Tensor logit_gradient(Context& context, const LogitGradient& args);

}  // namespace attune::ops
