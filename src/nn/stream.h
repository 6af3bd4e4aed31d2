// The flat stream: every sequence of a micro-batch, one after the other, without padding.
#pragma once

#include "tensor/tensor.h"

namespace attune::nn {

struct Stream {
  Rows rows;          // tokens
  Tensor tokens;      // i32 [1,N]
  Tensor positions;   // i32 [1,N], restart with each sequence
  Tensor cu_seqlens;  // i32 [1,S+1]
  Tensor sample_ids;  // i64 [1,N]: with positions, the key of each token for counter-based randomness
  int64_t max_seqlen = 0;  // longest sequence that capacity allows
  // Decoding: the keys reach back into a cache of `past` rows (one sequence).
  int64_t past = 0;
  Tensor cu_keys;  // i32 [1,S+1]; cu_seqlens where nothing is cached
};

// What is learnt from a stream: rows with a label, and how much each counts.
struct Targets {
  Rows rows;           // labelled tokens
  Tensor label_rows;   // i32 [1,R]: the stream rows whose next token is to be predicted
  Tensor labels;       // i32 [1,R]
  Tensor coefficient;  // f32 [1,R]: weight / Σ weight of the step
};

}  // namespace attune::nn
