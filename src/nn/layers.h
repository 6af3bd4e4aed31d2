// The small modules that blocks are made of. Each allocates its output unless it says that it works in place.
#pragma once

#include "nn/linear.h"
#include "nn/stream.h"
#include "ops/attention.h"
#include "ops/swiglu.h"

namespace attune::nn {

// The ids of a stream and what their rows are multiplied with.
struct EmbeddingCall {
  Tensor ids;  // i32 [1,N]
  Rows rows;
  DType dtype = DType::f32;
  float scale = 1;
};
// With an adapter (A [V, r], one row a word; B [d, r]) y += call.scale·adapter.scale·A[ids]·Bᵀ.
Value embedding(Tape& tape, Parameter& table, const EmbeddingCall& call, const Adapter* adapter = nullptr);

struct Norm {
  Parameter* weight = nullptr;
  float eps = 0;
  float offset = 0;  // added to the weight: 1 where a family stores its norms centred on 0
};
// Allocates y, or writes into `into` (allocated before a Scope, so that it survives the scope).
Value rms_norm(Tape& tape, Value x, const Norm& norm, Value into = nullptr);
// Norms every head of q and of k in q‖k‖v [N, (H + 2·KV)·d]; v is copied.
Value qk_norm(Tape& tape, Value qkv, const Norm& q, const Norm& k, const ops::AttentionShape& shape);
// y = x + delta, in delta's memory. The sum takes over the gradient memory that x has reserved.
Value add(Tape& tape, Value x, Value delta);
Value swiglu(Tape& tape, Value gate_up, ops::GateActivation activation = ops::GateActivation::silu);
// NEFTune's noise, added to x in place while training; no gradient of its own.
void embedding_noise(Tape& tape, Value x, float alpha, uint64_t key, const Stream& stream);
Value dropout(Tape& tape, Value x, float p, uint64_t key, const Stream& stream);

// What attention needs beside its input.
struct AttentionCall {
  ops::AttentionShape shape;
  const Stream* stream = nullptr;
  const Tensor* rope_table = nullptr;  // no rotation where it is missing; read again in backward
  // The table's rows are the stream's tokens (with a cache: all tokens of the sequence) instead of positions, because
  // frequencies depend on the sequence's length.
  bool rope_by_token = false;
  struct KvCacheLayer* cache = nullptr;
};

struct Attended {
  Value out;  // [N, H·d]
  Value lse;  // f32 [N, H]
};
// Allocated before the Scope that attention runs in, so that it survives the scope.
Attended attended(Tape& tape, const Rows& rows, const ops::AttentionShape& shape, DType dtype);
// qkv [N, q‖k‖v]. Rotates q and k in place; its gradient overwrites qkv.
void attention(Tape& tape, Value qkv, const AttentionCall& call, const Attended& into);

// Keys and values of one layer, appended to by decoding; Stream::cached says which rows belong to which sequence.
struct KvCacheLayer {
  Tensor k, v;  // [capacity, KV·d]
};

}  // namespace attune::nn
