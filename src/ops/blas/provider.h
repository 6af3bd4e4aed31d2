// Who multiplies bf16 matrices: ATTUNE_BF16_GEMM=onednn|convert|own in the environment forces one, for tests and
// measurements.
#pragma once

namespace attune::ops {

enum class Bf16Provider {
  automatic,  // by processor and shape
  onednn,     // always oneDNN, where it emulates too
  convert,    // tiles are converted to fp32
  own,        // the packed kernels; refused where the processor has no AVX512-BF16
};

Bf16Provider bf16_provider();

// For kernels, which do not throw themselves.
[[noreturn]] void refuse_own_bf16();

}  // namespace attune::ops
