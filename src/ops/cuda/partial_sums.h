// Sums over the rows of a matrix, in fixed parts that are added in a fixed order: the same bits every time.
#pragma once

#include "ops/cuda/kernel.h"

namespace attune::ops::cuda {

// What is summed up at (row, column): x, or x·y where there are two.
struct Summand {
  View x, y = {};
  __device__ float operator()(int64_t row, int64_t col) const {
    return y.defined() ? element(x, row, col) * element(y, row, col) : element(x, row, col);
  }
};

// partial[p, j] = Σ over the rows of part p. `partial` f32 [≥ parts, d]; returns the number of parts, which follows from `rows`.
int64_t column_sums(const char* op, int64_t rows, int64_t cols, const Summand& summand, const Tensor& partial);

// out[j] (+)= Σ_p partial[p, j], rounded once.
void add_parts(const char* op, const Tensor& partial, int64_t parts, const Tensor& out, bool accumulate);

}  // namespace attune::ops::cuda
