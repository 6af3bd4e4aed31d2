// The flat stream: every sequence of a micro-batch, one after the other, without padding.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace attune::nn {

// Where one of several sequences that are decoded together has its keys and values: rows [begin, begin + past) of the
// cache are there already, the next `count` are this stream's.
struct CachedSequence {
  int64_t begin = 0, past = 0, count = 0;
};

struct Stream {
  Rows rows;          // tokens
  Tensor tokens;      // i32 [1,N]
  Tensor positions;   // i32 [1,N], restart with each sequence
  Tensor cu_seqlens;  // i32 [1,S+1]
  Tensor sample_ids;  // i64 [1,N]: with positions, the key of each token for counter-based randomness
  double pairs = 0;           // Σ length² of the sequences: how much work attention is (nothing cached)
  int64_t max_seqlen = 0;  // longest sequence that capacity allows
  // Decoding: the keys reach back into a cache, `past` rows at most. `cached` says where each sequence lies in it; empty:
  // there is one, from row 0.
  int64_t past = 0;
  std::span<const CachedSequence> cached;
  Tensor cu_keys;  // i32 [1,2·S]: 0 and the keys of each sequence; undefined where nothing is cached
};

// What is learnt from a stream: rows with a label, and how much each counts.
struct Targets {
  Rows rows;           // labelled tokens
  Tensor label_rows;   // i32 [1,R]: the stream rows whose next token is to be predicted
  Tensor labels;       // i32 [1,R]
  Tensor coefficient;  // f32 [1,R]: weight / Σ weight of the step
};

}  // namespace attune::nn
