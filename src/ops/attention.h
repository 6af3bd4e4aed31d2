// Scaled dot-product attention over packed sequences. One op serves packing, KV-cache decoding, cross-attention
// and encoders.
//
// For each sequence s, q rows cu_q[s]…cu_q[s+1], k/v rows cu_k[s]…cu_k[s+1], head h reading k/v head h·KV/H:
//
//   S = cap(scale·Q·Kᵀ) + bias,  masked where not visible     P = exp(S − LSE)     O = dropout(P)·V
//   visible: causal ⇒ j ≤ i + (len_k − len_q)   (aligned bottom-right), window w > 0 ⇒ also j > that − w
//   cap: softcap c > 0 ⇒ cap(s) = c·tanh(s/c), and backward dS is multiplied with 1 − (cap(s)/c)²
//   bias: alibi slopes m_h ⇒ m_h·(j − i − (len_k − len_q))
//   backward: dV = Pᵀ·dO;  dP = dO·Vᵀ;  dS = P∘(dP − rowsum(P∘dP));  dQ = scale·dS·K;  dK = scale·dSᵀ·Q
//
// fp32 softmax; a row that sees nothing gives zeros and no gradient. LSE [Nq,H] is kept for backward.
// FLOPs (full) forward 4·Σ len_q·len_k·H·d, backward 2.5 times that; causal halves both.
// Dropout is counter-based: a function of (key, sample, query position, head, key index).
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;
  bool causal = true;
  int64_t window = 0;            // 0: unlimited
  const float* alibi = nullptr;  // [heads] slopes, or none
  float softcap = 0;             // 0: none
  // Longest sequences that capacity allows: workspace is sized by them, whatever a micro-batch holds.
  int64_t max_q = 0, max_k = 0;
  // Set by the dispatcher: the most rows of q that capacity allows, and what they are stored as (workspace).
  int64_t rows_q = 0;
  DType dtype = DType::f32;
  double pairs = 0;  // Σ len_q·len_k over the sequences: how much work there is (the books; the kernels do not need it)
  float dropout = 0;
  uint64_t dropout_key = 0;  // mixes seed, step and site
  Tensor sample_ids;         // i64 [1,Nq]: sample of each query token (dropout only)
  Tensor positions;          // i32 [1,Nq]: its position in the sample (dropout only)
};

struct AttentionForward {
  AttentionShape shape;
  Tensor q;            // [Nq, H·d]
  Tensor k, v;         // [Nk, KV·d]
  Tensor cu_q, cu_k;   // i32 [1, S+1]
  Tensor out;          // [Nq, H·d]
  Tensor lse;          // f32 [Nq, H]
  Tensor workspace;    // f32, from attention_workspace
};

struct AttentionBackward {
  AttentionShape shape;
  Tensor q, k, v, cu_q, cu_k, out, lse;  // `out` for kernels that see a row in pieces: rowsum(P∘dP) = rowsum(dO∘O)
  Tensor dout;        // [Nq, H·d]
  Tensor dq, dk, dv;  // overwritten; may be the same memory as q, k, v
  Tensor workspace;
};

void attention_forward(Context& context, AttentionForward args);
void attention_backward(Context& context, AttentionBackward args);

}  // namespace attune::ops
