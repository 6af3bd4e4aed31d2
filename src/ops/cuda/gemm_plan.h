// How a product in rows becomes one that cuBLASLt has: in columns, with operands of one dtype.
//
// A row-major X[r,c] is, read in columns, Xᵀ. So C = op(A)·op(B) in rows is Cᵀ = op(B)ᵀ·op(A)ᵀ in columns: the operands change
// places, and each keeps its own flag.
#pragma once

#include <cstdint>

#include "ops/gemm.h"

namespace attune::ops::cuda {

// One operand in columns: element (i, j) lies at data[j·leading + i].
struct Operand {
  void* data = nullptr;
  int64_t leading = 0;
  DType dtype = DType::f32;
  bool transpose = false;
};

// C[m,n] (+)= op(A)·op(B), all in columns, with fp32 sums.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand a, b, c;
  bool accumulate = false;
  void* workspace = nullptr;  // for the library
  uint64_t workspace_bytes = 0;
};

// What lies where in a call's workspace. cuBLASLt multiplies f32 into f32, bf16 into f32 or bf16, fp16 into f32 or fp16; of other
// mixtures the operands become f32, or the result goes through f32.
struct GemmPlan {
  static constexpr uint64_t kNone = ~uint64_t{0};
  static constexpr uint64_t kLibrary = uint64_t{32} << 20;  // as cuBLAS itself takes on Hopper
  uint64_t a = kNone, b = kNone, c = kNone;                 // f32 copies; kNone: as it is
  uint64_t library = 0, bytes = 0;
};

GemmPlan plan_of(const Gemm&);  // from capacities

// f32 copies in the workspace, contiguous, with the rows that are there; undefined where the plan has none.
struct GemmCopies {
  Tensor a, b, c;
};
GemmCopies copies_of(const Gemm&, const GemmPlan&, void* workspace);
Product product_of(const Gemm&, const GemmPlan&, const GemmCopies&, void* workspace);

// Computes it: cublas.cpp.
void multiply(const Product&);
// The same without a library, with fp32 arithmetic in any mixture of dtypes: product.cu. Slow; what the library has no kernel
// for, and what it can be checked against.
void multiply_plainly(const Product&);

// What keeps the library from being used, or nullptr.
const char* library_missing();

}  // namespace attune::ops::cuda
