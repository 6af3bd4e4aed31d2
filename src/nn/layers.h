// The small modules that blocks are made of. Each allocates its output unless it says that it works in place.
#pragma once

#include "nn/linear.h"
#include "nn/stream.h"
#include "ops/attention.h"

namespace attune::nn {

Value embedding(Tape& tape, const Tensor& ids, Rows rows, Parameter& table, DType dtype);
Value rms_norm(Tape& tape, Value x, Parameter& weight, float eps);
// y = x + delta, in delta's memory. The sum takes over the gradient memory that x has reserved.
Value add(Tape& tape, Value x, Value delta);
Value swiglu(Tape& tape, Value gate_up);
// NEFTune's noise, added to x in place while training; no gradient of its own.
void embedding_noise(Tape& tape, Value x, float alpha, uint64_t key, const Stream& stream);
Value dropout(Tape& tape, Value x, float p, uint64_t key, const Stream& stream);

// What attention needs beside its input.
struct AttentionCall {
  ops::AttentionShape shape;
  const Stream* stream = nullptr;
  const Tensor* rope_table = nullptr;  // no rotation where it is missing
  struct KvCacheLayer* cache = nullptr;
};

// qkv [N, q‖k‖v] → [N, H·d]. Rotates q and k in place; its gradient overwrites qkv.
Value attention(Tape& tape, Value qkv, const AttentionCall& call);

// Keys and values of one layer and one sequence, appended to by decoding: rows [0, length) are valid.
struct KvCacheLayer {
  Tensor k, v;  // [capacity, KV·d]
};

}  // namespace attune::nn
