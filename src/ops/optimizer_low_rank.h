// What optimizers do that look at a gradient G [R,C] through a projection P [rank, n]:
// on the right, n = C, low = G·Pᵀ [R,rank]; on the left, n = R, low = P·G [rank,C].
#pragma once

#include "ops/optimizer.h"

namespace attune::ops {

// P ← independent normal numbers of variance 1/rank: a function of `key` and the element. f32 or bf16.
struct RandomProjection {
  Tensor out;
  uint64_t key = 0;
};
void random_projection(Context& context, const RandomProjection& args);

// P ← the first `rank` right (or left) singular vectors of `matrix` [R,C], rank ≤ min(R,C), by the eigenvectors of the
// smaller Gram matrix in double. Each one's largest component is positive. About 10·min(R,C)³ FLOPs on one thread.
struct SingularVectors {
  Tensor matrix, out;
  bool right = true;
  void* workspace = nullptr;  // set by the dispatcher
};
void singular_vectors(Context& context, SingularVectors args);

// For each channel, a row of G or a column: Σ g², and, where there is a direction, Σ g·direction (a projection of rank 1).
// One pass over G; the same for every thread count.
struct ChannelSums {
  Tensor gradient;             // [R,C], contiguous
  bool columns = false;        // channels are columns
  Tensor direction;            // f32 [1, R or C: what a channel has], or undefined
  Tensor squares, products;    // f32 [1, channels]
  Tensor partial;              // workspace, set by the dispatcher
  static constexpr int64_t kParts = 8;
};
void channel_sums(Context& context, ChannelSums args);

// APOLLO (Zhu et al. 2024, algorithm 1, as apollo_torch): Adam's moments of the projected gradient, and by how much each
// channel of G is scaled:
//   m ← β₁m + (1−β₁)low;  v ← β₂v + (1−β₂)low²;  u = m / (√v + eps)
//   f_c = ‖u_c‖ / (‖low_c‖ + 1e-8), or one f for the tensor;  then the norm-growth limiter over ‖f·G‖ and √scale.
// The limiter holds the norm to 1.01 times the last one; `previous` is 0 before the first step.
struct ApolloFactors {
  Tensor low, m, v;        // f32, [channels, rank], or [rank, channels] where channels are columns
  bool columns = false;
  bool per_tensor = false;
  Tensor squares;          // f32 [1, channels]: Σ g² before grad_scale
  Tensor previous;         // f32 [1,1]
  Tensor factors;          // f32 [1, channels], the result
  float grad_scale = 1, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, scale = 1;
  bool scale_front = false;  // √scale before the limiter, not behind it
};
void apollo_factors(Context& context, const ApolloFactors& args);

// p ← decayed p − rate·factor·g, one factor for each row or column. 6 bytes a parameter in bf16.
struct ScaledStep {
  Stepped of;
  Tensor factors;
  bool columns = false;
  float rate = 0;
};
void scaled_step(Context& context, const ScaledStep& args);

}  // namespace attune::ops
