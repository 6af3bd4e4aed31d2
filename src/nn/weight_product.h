// The products of a linear layer with its weights, dense or quantised (tensor/quantized.h). Quantised ones are read slab by slab
// through workspace; slabs cut no sum.
#pragma once

#include <span>

#include "nn/linear.h"

namespace attune::nn {

// y = x·Wᵀ over the adjacent weights of a layer, or some of them.
void multiply_by_weights(ops::Context& context, std::span<Parameter* const> weights, const Tensor& x, const Tensor& y);
// dx (+)= dy·W.
void multiply_back(ops::Context& context, std::span<Parameter* const> weights, const Tensor& dy, const GradientTarget& dx);
// norms [1, out] = the lengths of the rows of W + scale·B·A (ops/magnitude.h).
void adapted_norms(ops::Context& context, const Parameter& weight, const Adapter& adapter, const Tensor& norms);

}  // namespace attune::nn
