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
//
// Logits come whole, or in slabs of the vocabulary: `logprob_slab` over every slab, then `finish_logprob`, gives what
// `token_logprob` gives; the gradient of a slab then needs to be told where in the vocabulary it lies.
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

// What is known of a row after some slabs: the columns of `state`.
struct SlabColumn {
  enum : int64_t { highest, sum, label, total, top, count };  // max z, Σ exp(z − max), z_label, Σ z, argmax z
};
struct LogprobSlab {
  Tensor logits;  // f32 [R,S]: words first … first + S − 1
  Tensor labels;  // i32 [1,R]
  Tensor state;   // f32 [R, SlabColumn::count]; the slab at first = 0 begins it
  int64_t first = 0;
};
void logprob_slab(Context& context, const LogprobSlab& args);

struct FinishLogprob {
  Tensor state;
  int64_t vocab = 0;
  Tensor logp, lse, correct;  // as in TokenLogprob
  float smoothing = 0;
  float z_loss = 0;
};
void finish_logprob(Context& context, const FinishLogprob& args);

struct LogitGradient {
  Tensor logits;       // f32 [R,V], or [R,S] with `slab`
  Tensor labels;       // i32 [1,R]
  Tensor lse;          // f32 [1,R]
  Tensor coefficient;  // f32 [1,R]
  DType dtype = DType::f32;
  float smoothing = 0;
  float z_loss = 0;
  // A slab of a larger vocabulary.
  Tensor state = {};  // of logprob_slab over all slabs; undefined: the logits are whole
  int64_t first = 0, vocab = 0;
  Tensor weight_logp = {};  // f32 [1,R]: coefficients are multiplied by exp of it; undefined: by 1
};
// Returns the gradient: a view of the logits' memory.
Tensor logit_gradient(Context& context, const LogitGradient& args);

}  // namespace attune::ops
