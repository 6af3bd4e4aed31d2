// Rotary position embedding (Su et al. 2021) in Hugging Face's layout: dimension i is paired with i + d/2.
//
//   forward   (x_i, x_{i+d/2}) ← (x_i·c − x_{i+d/2}·s,  x_{i+d/2}·c + x_i·s)
//   backward  the same with −s
//
// In place on every head of x[N, heads·d]; c, s come from the table row of the token's position. Bytes 2·N·heads·d.
#pragma once

#include "ops/context.h"

namespace attune::ops {

struct Rope {
  Tensor x;          // [N, heads·d], may be a column slice
  Tensor positions;  // i32 [1,N], each below the table's rows
  Tensor table;      // f32 [positions, d]: d/2 cosines, then d/2 sines
  int64_t heads = 0;
  bool backward = false;
};

void rope(Context& context, const Rope& args);

}  // namespace attune::ops
