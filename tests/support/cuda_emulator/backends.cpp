#include "support/backends.h"

#include "util/error.h"

extern "C" const attune::ops::Backend* attune_cuda_backend(char* why, size_t size);

namespace attune::test {

const ops::Backend& cuda_for_tests() {
  char why[256] = "";
  const ops::Backend* backend = attune_cuda_backend(why, sizeof why);
  if (!backend) fail("the emulated CUDA device does not start: {}", why);
  return *backend;
}

bool emulated() { return true; }

std::vector<const ops::Backend*> every_backend() {
  std::vector<const ops::Backend*> all(ops::cpu_backends().begin(), ops::cpu_backends().end());
  all.push_back(&cuda_for_tests());
  return all;
}

}  // namespace attune::test
