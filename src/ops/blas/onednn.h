// The one place that speaks oneDNN. Row-major.
#pragma once

#include "ops/gemm.h"

namespace attune::ops::onednn {

// C[m,n] = A·B (+ C). Called inside a parallel region it runs on the calling thread alone.
void sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
           const float* b, int64_t ldb, bool accumulate, float* c, int64_t ldc);

// Bytes that sgemm takes inside itself while it runs, at most: panels of A that its threads pack.
uint64_t sgemm_hidden_bytes(int64_t n, int64_t k);

// Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX); without, bf16 tiles are converted to fp32.
bool bf16_hardware();
// AMX: several times faster than the vector units.
bool matrix_tiles();

// bf16·bf16 → f32 or bf16 through the matmul primitive.
uint64_t bf16_workspace(const Gemm& args);
void bf16_gemm(const GemmCall& call);

// Name of the implementation oneDNN picks for these shapes ("brg:avx512_core_bf16", "gemm:jit" …).
const char* bf16_implementation(const Gemm& args);

}  // namespace attune::ops::onednn
