// DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353): the rows of V = W + s·B·A keep their direction, and have a length
// of their own, m.
//
//   y[n,o] = u[n,o]·m_o/‖V_o‖   with u = x·Vᵀ
//
// As the paper proposes (§4.3), ‖V_o‖ counts as a constant in the gradient: du = dy·m/‖V‖, dm_o = Σ_n dy[n,o]·u[n,o]/‖V_o‖.
// A row of zeros has no direction: its y and its gradients are 0.
#pragma once

#include "ops/context.h"

namespace attune::ops {

// out[o] = ‖w_o + scale·b_o·A‖, summed in fp32. FLOPs 2·out·in·(r+1); reads W once.
struct AdaptedRowNorms {
  Tensor weight;  // [out,in]
  Tensor a, b;    // [r,in], [out,r], of one dtype
  float scale = 1;
  Tensor out;     // [1,out], rounded to the dtype of the magnitudes, so that both are equal where the adapter begins
};
void adapted_row_norms(Context& context, const AdaptedRowNorms& args);

// y (+)= x·m/norm by column; y may be x.
struct MagnitudeForward {
  Tensor x;                 // [N,d]
  Tensor magnitude, norms;  // [1,d]
  Tensor y;                 // [N,d], of x's dtype
  bool accumulate = false;
  Tensor gain;  // f32 workspace [1,d], set by the dispatcher
};
void magnitude_forward(Context& context, MagnitudeForward args);

// dx = dy·m/norm, dmagnitude (+)= Σ_rows dy∘x/norm. dx may be dy. The same bits for every number of threads.
struct MagnitudeBackward {
  Tensor dy, x;             // [N,d]
  Tensor magnitude, norms;  // [1,d]
  Tensor dx;                // [N,d]
  Tensor dmagnitude;        // [1,d]; undefined: not wanted, and x is not read
  bool accumulate = false;
};
void magnitude_backward(Context& context, const MagnitudeBackward& args);

}  // namespace attune::ops
