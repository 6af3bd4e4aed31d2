// Picks the next token from logits.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace attune::infer {

// Greedy at temperature 0 (the lowest id wins a tie); otherwise temperature, then top-k, then top-p. The choice is a
// function of (seed, position).
int32_t sample(const float* logits, int64_t vocab, double temperature, int64_t top_k, double top_p, uint64_t seed, uint64_t position);

}  // namespace attune::infer
