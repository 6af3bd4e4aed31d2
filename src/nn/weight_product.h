// The products of a linear layer with its weights, dense or quantised (tensor/quantized.h). Quantised ones are read slab by slab
// through workspace; slabs cut no sum.
#pragma once

#include "nn/linear.h"

namespace attune::nn {

// y = x·Wᵀ.
void multiply_by_weights(ops::Context& context, const Linear& layer, const Tensor& x, const Tensor& y);
// dx (+)= dy·W.
void multiply_back(ops::Context& context, const Linear& layer, const Tensor& dy, const GradientTarget& dx);

}  // namespace attune::nn
