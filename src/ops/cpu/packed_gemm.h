// The matrix product's own AVX-512 kernels. Inner sums run in one order, whatever the number of threads.
#pragma once

#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA::packed {

struct Sizes {
  int64_t m, n, k;
};

// Whether this build of the kernels multiplies these types: f32·f32 → f32 and, with AVX512-BF16, bf16·bf16 → f32 or bf16.
bool can(const Gemm&);

// Workspace in bytes for sizes up to these; `gemm` may be called with smaller ones.
uint64_t workspace(const Gemm&, const Sizes& capacity);
void gemm(const GemmCall&, const Sizes& capacity, const Sizes&);

}  // namespace attune::ops::cpu::ATTUNE_ISA::packed
