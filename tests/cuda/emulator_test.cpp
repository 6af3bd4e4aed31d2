// What the emulator finds wrong in a kernel: each of these would be undefined behaviour, or a hang, on a GPU.
#include <gtest/gtest.h>

#include <string>

#include "ops/cuda/kernel.h"
#include "support/backends.h"
#include "support/errors.h"

namespace attune::ops::cuda {
namespace {

using test::error_of;

__global__ void half_reaches_the_barrier(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void half_a_warp_sums(float* out) {
  if (threadIdx.x % 32 < 16) out[0] = warp_sum(1.0f);
}
__global__ void writes_behind_shared_memory() { shared_memory<float>()[threadIdx.x + 1] = 1; }
__global__ void turns(int* out) {
  int* shared = shared_memory<int>();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x] + static_cast<int>(blockIdx.x) * 1000;
}
__global__ void sums(double* out) {
  const double all = block_sum(static_cast<double>(threadIdx.x));
  const unsigned odd = __ballot_sync(~0u, threadIdx.x % 2);
  out[threadIdx.x] = all + odd;
}

TEST(CudaEmulator, RunsThreadsUpToBarriersInTurns) {
  int out[96] = {};
  launch("turns", {{2, 1, 1}, {96, 1, 1}, 96 * sizeof(int)}, turns, out);
  for (int i = 0; i < 96; ++i) EXPECT_EQ(out[i], 1000 + 95 - i);
}

TEST(CudaEmulator, SumsOverABlock) {
  double out[64];
  launch("sums", {{1, 1, 1}, {64, 1, 1}}, sums, out);
  for (double x : out) EXPECT_EQ(x, 63 * 32 + double{0xAAAAAAAA});
}

TEST(CudaEmulator, FindsABarrierThatNotAllThreadsReach) {
  int out[64];
  EXPECT_NE(error_of([&] { launch("a", {{1, 1, 1}, {64, 1, 1}}, half_reaches_the_barrier, out); }).find("wait at a barrier"), std::string::npos);
  float sum = 0;
  EXPECT_NE(error_of([&] { launch("b", {{1, 1, 1}, {32, 1, 1}}, half_a_warp_sums, &sum); }).find("of a warp wait"), std::string::npos);
}

TEST(CudaEmulator, FindsAWriteBehindSharedMemory) {
  EXPECT_NE(error_of([] { launch("c", {{1, 1, 1}, {32, 1, 1}, 32 * sizeof(float)}, writes_behind_shared_memory); }).find("behind its shared memory"),
            std::string::npos);
}

TEST(CudaEmulator, RefusesALaunchThatNoDeviceTakes) {
  int out[64];
  for (const Shape& shape : {Shape{{1, 1, 1}, {2048, 1, 1}}, Shape{{1, 70000, 1}, {32, 1, 1}}})
    EXPECT_NE(error_of([&] { launch("d", shape, turns, out); }).find("beyond the limits"), std::string::npos);
  EXPECT_NE(error_of([&] { launch("e", {{1, 1, 1}, {32, 1, 1}, 128 << 10}, turns, out); }).find("e: cudaFuncSetAttribute"), std::string::npos);
}

}  // namespace
}  // namespace attune::ops::cuda
