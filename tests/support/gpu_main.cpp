// test_ops_cuda: the op tests on a real GPU, by the plug-in beside this program. The tests make their tensors with the host's heap;
// here that is one pinned range, which the device reads and writes over the bus, at the same addresses. Every kernel is waited for.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "support/backends.h"
#include "util/error.h"

namespace attune::test {
namespace {

constexpr size_t kHeap = size_t{1} << 30;

// From here on the heap is one range, and does not shrink.
bool pin_heap(std::string& why) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, static_cast<int>(kHeap));
  void* volatile some = std::malloc(kHeap / 64);  // grows it
  std::free(some);
  uintptr_t begin = 0, end = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find("[heap]") != std::string::npos) std::sscanf(line.c_str(), "%lx-%lx", &begin, &end);
  if (end < begin + kHeap) return why = "the heap did not grow", false;
  cudaError_t error = cudaSetDevice(0);
  if (error == cudaSuccess) error = cudaHostRegister(reinterpret_cast<void*>(begin), end - begin, cudaHostRegisterDefault);
  int same_address = 0;
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, 0);
  if (error != cudaSuccess) return why = cudaGetErrorString(error), false;
  if (!same_address) return why = "the device does not take the host's addresses", false;
  return true;
}

}  // namespace

const ops::Backend& cuda_for_tests() {
  std::string why;
  const ops::Backend* backend = ops::cuda_backend(&why);
  if (!backend) fail("{}", why);
  return *backend;
}

bool emulated() { return false; }

std::vector<const ops::Backend*> every_backend() { return {&cuda_for_tests()}; }

}  // namespace attune::test

int main(int argc, char** argv) {
  ::setenv("ATTUNE_CUDA_SYNC", "1", 1);
  std::string why;
  if (!attune::test::pin_heap(why)) return std::fprintf(stderr, "error: memory for the tests cannot be pinned: %s\n", why.c_str()), 1;
  try {
    ::testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "error: %s\n", e.what()), 1;
  }
}
