// What goes wrong on the device, said with the op and the call that found it. No fmt here: kernels include this.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace attune::ops::cuda {

// Throws attune::Error: the work failed.
[[noreturn]] void fail_with(const std::string& message);
// "rms_norm_forward: cudaLaunchKernelEx: out of memory (cudaErrorMemoryAllocation)". Ops run behind the host, so an error may
// show at a later call than the one that caused it; the message says how to find the one.
[[noreturn]] void fail_with(const char* op, const char* call, cudaError_t error);

inline void check(cudaError_t error, const char* op, const char* call) {
  if (error != cudaSuccess) fail_with(op, call, error);
}

}  // namespace attune::ops::cuda
