// y = x·Wᵀ + b + Σ adapters, over one weight or several adjacent ones (q‖k‖v, gate‖up).
#pragma once

#include <vector>

#include "nn/tape.h"
#include "ops/elementwise.h"

namespace attune::nn {

// A low-rank slot: y[:, out_begin : out_begin + out_size] += scale · (x·Aᵀ)·Bᵀ,  A [r, in], B [out_size, r]. Those of one
// layer that were declared together have adjacent A's (one group of the ParameterStore), so that x is read once for all of them;
// several adapters may lie on the same outputs and add up.
// With a magnitude (DoRA, ops/magnitude.h) the slice of x·Wᵀ and what the adapter adds are multiplied by it, column by column,
// and divided by the lengths of the rows of W + scale·B·A; the bias comes behind that.
struct Adapter {
  Parameter* a = nullptr;
  Parameter* b = nullptr;
  float scale = 1;
  int64_t out_begin = 0;
  Parameter* magnitude = nullptr;  // [out_size]; of one layer all adapters have one or none has

  int64_t out_size() const { return b->weight.rows.count; }
};

struct Linear {
  std::vector<Parameter*> weights;  // adjacent, each [out_i, in]
  std::vector<Parameter*> biases;   // adjacent, each [out_i]; or empty
  std::vector<Adapter> adapters;

  int64_t in() const { return weights[0]->weight.cols; }
  int64_t out() const;
  int64_t rank() const;  // Σ r of the adapters
  bool has_magnitudes() const { return !adapters.empty() && adapters[0].magnitude; }
  // All weights as one matrix [Σ out_i, in] (quantised ones: its shape); all biases as one row.
  WeightView weight() const;
  Tensor bias() const;
};

// Where results go that must outlive the Scope which x stands in.
struct LinearOutput {
  Value y = nullptr;
  Value hidden = nullptr;  // scale·x·Aᵀ of all adapters [N, Σ r]; they keep it for the gradient of B
  // With magnitudes: what they are multiplied with [N, out] (outside of training y itself), and the lengths of rows [1, out].
  Value sum = nullptr, norms = nullptr;
};
LinearOutput linear_output(Tape& tape, const Rows& rows, const Linear& layer, DType dtype, Value y = nullptr);

// Dropout of what adapters read, while training; all adapters of a layer share the mask. x and y are not looked at. With
// magnitudes it is PEFT's: y = W·x + b + (g − 1)·W·d + g·scale·B·A·d, where d is what is left of x and g = m/‖row‖.
using AdapterDropout = ops::Dropout;

// Allocates what `into` does not have.
Value linear(Tape& tape, Value x, const Linear& layer, const LinearOutput& into = {}, const AdapterDropout& dropout = {});

}  // namespace attune::nn
