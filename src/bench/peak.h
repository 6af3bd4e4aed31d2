// What this machine can do at most, measured in a fraction of a second: the rates that everything else is a share of.
#pragma once

#include "tensor/dtype.h"

namespace attune::bench {

// All threads together, with nothing but arithmetic in registers. FLOP/s; bf16_registers is 0 without AVX512-BF16.
double bf16_registers(double seconds);
double fp32_registers(double seconds);

// y += a·x in place, 12 bytes an element, on arrays beyond every cache. Bytes/s of all threads together.
double axpy_bandwidth();

// Reading 256 MB once. Bytes/s of all threads together.
double read_bandwidth();

// The most this processor's matrix work can reach in a precision: arithmetic in registers or, where an instruction for matrices is
// faster than that (AMX), the product of two matrices. Without bf16 arithmetic, bf16 is computed in fp32.
double matrix_peak(DType compute);

}  // namespace attune::bench
