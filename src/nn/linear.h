// y = x·Wᵀ + b + Σ adapters, over one weight or several adjacent ones (q‖k‖v, gate‖up).
#pragma once

#include <vector>

#include "nn/tape.h"

namespace attune::nn {

// A low-rank slot: y[:, out_begin : out_begin + out_size] += scale · (x·Aᵀ)·Bᵀ,  A [r, in], B [out_size, r].
struct Adapter {
  Parameter* a = nullptr;
  Parameter* b = nullptr;
  float scale = 1;
  int64_t out_begin = 0;
};

struct Linear {
  std::vector<Parameter*> weights;  // adjacent, each [out_i, in]
  std::vector<Parameter*> biases;   // adjacent, each [out_i]; or empty
  std::vector<Adapter> adapters;

  int64_t in() const { return weights[0]->weight.cols; }
  int64_t out() const;
  // All weights as one matrix [Σ out_i, in]; all biases as one row.
  WeightView weight() const;
  Tensor bias() const;
};

// Allocates y, or writes into `into` (allocated before a Scope, so that it survives the scope).
Value linear(Tape& tape, Value x, const Linear& layer, Value into = nullptr);

}  // namespace attune::nn
