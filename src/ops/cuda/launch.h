// Where kernels are started: plain C++, so that a host compiler with tests/support/cuda_emulator takes the same sources.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "ops/cuda/device.h"
#include "ops/cuda/error.h"

namespace attune::ops::cuda {

inline constexpr int kThreads = 256;  // of a block, where nothing speaks for another number
inline constexpr int kWarp = 32;

struct Shape {
  dim3 grid, block;
  size_t shared = 0;  // bytes of shared memory that the kernel lays out itself
};

inline unsigned blocks(int64_t n, int64_t per_block, int64_t most = 1 << 30) {
  return static_cast<unsigned>(std::min((n + per_block - 1) / per_block, most));
}

// kernel<<<shape>>>(arguments…) on the device's stream; a grid of nothing is nothing to do. `op` is for messages.
template <class... Parameters, class... Arguments>
void launch(const char* op, const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  constexpr size_t kPlain = 48 << 10;  // more must be asked for
  CudaDevice& d = device();
  if (shape.shared > kPlain)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared)), op, "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid, config.blockDim = shape.block, config.dynamicSmemBytes = shape.shared, config.stream = d.stream();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op, "cudaLaunchKernelEx");
  if (d.synchronous()) check(cudaStreamSynchronize(d.stream()), op, "cudaStreamSynchronize");
}

}  // namespace attune::ops::cuda
