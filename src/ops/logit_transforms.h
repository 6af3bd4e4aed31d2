// What some heads do to their rows and logits.
//
//   NormHead (Baichuan 2)   z = x·ŵᵀ with ŵ_v = w_v/max(‖w_v‖, 1e-12): the logits of the plain rows are scaled by
//                           column, and the gradient of the rows loses its part along them: dw −= ŵ·(ŵ·dw).
//   soft cap (Gemma)        z = c·tanh(z/c),  dz ← dz·(1 − (z/c)²)
#pragma once

#include "ops/context.h"

namespace attune::ops {

// out[v] = 1/max(‖w_v‖, 1e-12). Sums in fp32.
struct InverseRowNorms {
  Tensor weight;  // [V,d]
  Tensor out;     // f32 [1,V]
};
void inverse_row_norms(Context& context, const InverseRowNorms& args);

// x[r,v] ← x[r,v]·scale[v], in place.
struct ScaleColumns {
  Tensor x;      // [R,V]
  Tensor scale;  // f32 [1,V]
};
void scale_columns(Context& context, const ScaleColumns& args);

// g_v ← g_v − ŵ_v·(ŵ_v·g_v), in place. A projection: doing it twice, or to a sum, is doing it once to each part.
struct ProjectRows {
  Tensor weight;        // [V,d]
  Tensor inverse_norm;  // f32 [1,V]
  Tensor gradient;      // [V,d]
};
void project_rows(Context& context, const ProjectRows& args);

struct Softcap {
  Tensor logits;  // f32 [R,V], in place
  float cap = 0;
  Tensor kept;  // f32 [R,V]: a copy of the result for backward; undefined: none
};
void softcap(Context& context, const Softcap& args);

struct SoftcapBackward {
  Tensor capped;   // f32 [R,V], what softcap returned
  Tensor dlogits;  // [R,V], in place
  float cap = 0;
};
void softcap_backward(Context& context, const SoftcapBackward& args);

}  // namespace attune::ops
