// Small memory-bound operations on matrices [N,d].
#pragma once

#include "ops/context.h"

namespace attune::ops {

// out = a + b (out may be a or b); dtypes may differ, the sum is fp32 and rounded once.
struct Add {
  Tensor a, b, out;
};
void add(Context& context, const Add& args);

// x[n] += bias, bias [1,d].
struct AddBias {
  Tensor x, bias;
};
void add_bias(Context& context, const AddBias& args);

// out (+)= Σ_rows x: the gradient of a bias. Partial sums per thread, added in thread order.
struct SumRows {
  Tensor x;
  Tensor out;  // [1,d] f32 or bf16
  bool accumulate = false;
  Tensor partial;  // f32 workspace [threads, d], set by the dispatcher
};
void sum_rows(Context& context, SumRows args);

// to (+)= scale·from, converting between dtypes.
struct Scale {
  Tensor from, to;
  float scale = 1;
  bool accumulate = false;
};
void scale(Context& context, const Scale& args);

void fill_zero(Context& context, const Tensor& x);

// out[i] = x[rows[i]]   (rows i32 [1,R])
struct GatherRows {
  Tensor x, rows, out;
};
void gather_rows(Context& context, const GatherRows& args);
// out[rows[i]] (+)= x[i]; rows are distinct.
struct ScatterRows {
  Tensor x, rows, out;
  bool accumulate = false;
};
void scatter_rows(Context& context, const ScatterRows& args);

// Inverted dropout, a function of (key, sample, position, channel): y = keep ? x/(1−p) : 0. In place allowed; the
// backward pass is the same call on the gradient.
struct Dropout {
  Tensor x, y;
  float p = 0;
  uint64_t key = 0;
  Tensor sample_ids;  // i64 [1,N]
  Tensor positions;   // i32 [1,N]
};
void dropout(Context& context, const Dropout& args);

}  // namespace attune::ops
