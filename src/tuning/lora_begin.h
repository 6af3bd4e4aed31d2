// Where adapters begin that do not begin at nothing: PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz 2024). Both take a part
// s·B₀·A₀ out of the weight and let the adapter begin as that part, so the model begins as it was.
#pragma once

#include "models/decoder.h"

namespace attune::tuning {

enum class LoraStart { zero, pissa, olora };

struct StartOptions {
  LoraStart how = LoraStart::zero;
  int64_t pissa_iterations = 16;  // of the subspace; −1: exact singular vectors
  uint64_t seed = 42;
};

// Fills A₀ [r, in] and B₀ [out, r] (both fp32) for a weight [out, in]. PiSSA: √(σ/s) times the first singular vectors; OLoRA:
// the first r columns of Q and rows of R in W = Q·R. Refuses a rank above either size.
void decompose(const StartOptions& options, const nn::Parameter& weight, float scale, const Tensor& a, const Tensor& b);

// weight ← weight − scale·B·A in fp32, rounded once.
void take_out(nn::Parameter& weight, float scale, const Tensor& a, const Tensor& b);

}  // namespace attune::tuning
