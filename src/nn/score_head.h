// Numbers for whole sequences (a reward; later classes): scores = h[last token]·Wᵀ, W [labels, d].
#pragma once

#include "nn/tape.h"

namespace attune::nn {

// `rows`: i32 [1,S], the last row of each sequence; `count`: S, with the capacity that memory is laid out for. Returns
// fp32 [S, labels].
Value sequence_scores(Tape& tape, Value hidden, Parameter& weight, const Tensor& rows, Rows count);

}  // namespace attune::nn
