// Rotary position embedding (Su et al. 2021) in Hugging Face's layout: dimension i is paired with i + r/2.
//
//   forward   (x_i, x_{i+r/2}) ← (x_i·c − x_{i+r/2}·s,  x_{i+r/2}·c + x_i·s)
//   backward  the same with −s
//
// In place on the first r = table.cols dimensions of every head of x[N, heads·d]; c and s come from a table row.
// Bytes 2·N·heads·r.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct Rope {
  Tensor x;          // [N, heads·d], may be a column slice
  Tensor positions;  // i32 [1,N], the table's row for each token; undefined: token n takes row n
  Tensor table;      // f32 [rows, r]: r/2 cosines, then r/2 sines
  int64_t heads = 0;
  bool backward = false;
};

void rope(Context& context, const Rope& args);

// A table with one row a token, for frequencies that are a function of the sequence's length L:
//
//   f = frequency                        where L ≤ limit
//   f = long_frequency                   beyond (LongRoPE), or, where there is none,
//   f_i = θ'^(−2i/r),  θ' = theta·(factor·L/limit − (factor − 1))^(r/(r−2))      (dynamic NTK)
//
// L is the length of the token's sequence in cu_seqlens, and positions begin at 0 in each: packing changes nothing.
struct RopeTable {
  Tensor table;       // f32 [N, r]: r/2 cosines, then r/2 sines
  Tensor cu_seqlens;  // i32 [1, S+1], rows of the table
  const float* frequency = nullptr;       // [r/2]
  const float* long_frequency = nullptr;  // [r/2] or none
  int64_t limit = 0;
  double theta = 0, factor = 1;
  float scale = 1;  // of cosines and sines
};

void rope_table(Context& context, const RopeTable& args);

}  // namespace attune::ops
