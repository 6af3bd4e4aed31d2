// The backends that op tests run on: those of this processor, and CUDA's kernels on the emulator (support/cuda_emulator).
#pragma once

#include <vector>

#include "ops/backend.h"
#include "util/error.h"

extern "C" const attune::ops::Backend* attune_cuda_backend(char* why, size_t size);

namespace attune::test {

inline const ops::Backend& emulated_cuda() {
  char why[256] = "";
  const ops::Backend* backend = attune_cuda_backend(why, sizeof why);
  if (!backend) fail("the emulated CUDA device does not start: {}", why);
  return *backend;
}

inline std::vector<const ops::Backend*> every_backend() {
  std::vector<const ops::Backend*> all(ops::cpu_backends().begin(), ops::cpu_backends().end());
  all.push_back(&emulated_cuda());
  return all;
}

}  // namespace attune::test
