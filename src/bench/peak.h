// What this machine can do at most, measured in a fraction of a second: the rates that everything else is a share of.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace attune::bench {

// A loop of nothing but arithmetic in registers: `run` goes through so many turns of `flops` each, on one thread. Null where the
// processor has no such arithmetic (bf16: AVX512-BF16; fp32: AVX2 with FMA).
struct RegisterLoop {
  float (*run)(int64_t turns) = nullptr;
  double flops = 0;
};
RegisterLoop bf16_loop();
RegisterLoop fp32_loop();

// What they reach on all threads together, in FLOP/s; 0 where there is none.
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
