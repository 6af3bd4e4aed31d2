// Token embedding.
//
//   forward   y[n] = scale·W[ids[n]]
//   backward  dW[v] (+)= scale·Σ_{n: ids[n]=v} dy[n]   summed in fp32 in order of n, rounded once per row
//
// Bytes: forward 2·N·d, backward the touched rows. The gradient of an untied embedding is row-sparse; here it is
// a dense tensor of which only touched rows are written.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct EmbeddingForward {
  Tensor ids;     // i32 [1,N]
  Tensor weight;  // [V,d]
  Tensor y;       // [N,d]
  float scale = 1;
};
struct EmbeddingBackward {
  Tensor ids;  // i32 [1,N]
  Tensor dy;   // [N,d]
  Tensor dweight;  // [V,d] f32 or bf16; always accumulated into
  Tensor order;    // i32 workspace [1, capacity of N]: tokens sorted by id
  float scale = 1;
};

// NEFTune (Jain et al. 2023): x[n] += alpha/√(L·d) · u, u uniform in [−1,1), L the length of the token's own sequence; a
// function of (key, sample, position, channel). The gradient passes unchanged.
struct EmbeddingNoise {
  Tensor x;  // [N,d]
  float alpha = 0;
  uint64_t key = 0;
  Tensor cu_seqlens;  // i32 [1,S+1]
  Tensor sample_ids;  // i64 [1,N]
  Tensor positions;   // i32 [1,N]
};

void embedding_noise(Context& context, const EmbeddingNoise& args);
void embedding_forward(Context& context, const EmbeddingForward& args);
void embedding_backward(Context& context, const EmbeddingBackward& args);

}  // namespace attune::ops
