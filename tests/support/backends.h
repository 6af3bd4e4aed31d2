// The backends that op tests run on. Two programs: the ordinary tests take those of this processor, and CUDA's kernels on the
// emulator (support/cuda_emulator); test_ops_cuda takes the GPU (support/gpu_main.cpp).
#pragma once

#include <vector>

#include "ops/backend.h"

namespace attune::test {

// The CUDA backend: emulated, or the GPU's. Throws where there is none.
const ops::Backend& cuda_for_tests();
bool emulated();
std::vector<const ops::Backend*> every_backend();

}  // namespace attune::test
