// Enough of CUDA's runtime for a host compiler to take src/ops/cuda: found instead of NVIDIA's header, so the kernels are tested
// without a GPU and without CUDA. Device memory is the host's, between guard pages. Kernels run block after block; the threads of a
// block are fibres (emulator.cpp), which take turns at barriers. It checks more than a GPU does: that all threads of a block, or a
// warp, reach a barrier, that shared memory is kept to, that a launch is within what every GPU from sm_80 on allows. The host cannot
// touch device memory but by the runtime's own calls.
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __shared__ thread_local  // kernels run on one thread of the host, and `extern` may stand before it
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// Of the thread that is running.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
using cudaStream_t = struct cudaStream*;
using cudaEvent_t = struct cudaEvent*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
#define CUDART_VERSION 13000

struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_emulator {

// What a kernel was found to do wrong, as the error of its launch.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*call)(void*), void* arguments);
cudaError_t allow_shared(const void* kernel, int bytes);
void fail(const char* what);  // the running kernel is at fault

// `bytes` from `base` on, whole pages, belong to the device.
void add_device_memory(void* base, size_t bytes);
void remove_device_memory(void* base);
// While one lives, this thread works for the device.
class OnDevice {
 public:
  OnDevice();
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

void sync_block();
void sync_warp();
int lane();

struct alignas(16) Slot {
  unsigned char bytes[32];
};
// All lanes of a warp bring `size` bytes; what lane i brought is in slot i, until the exchange after the next.
const Slot* exchange(const void* mine, size_t size);

template <class T>
T from_lane(T x, int source) {
  static_assert(sizeof(T) <= sizeof(Slot));
  const Slot* all = exchange(&x, sizeof x);
  std::memcpy(&x, all[source & 31].bytes, sizeof x);
  return x;
}

}  // namespace cuda_emulator

inline void __syncthreads() { cuda_emulator::sync_block(); }
inline void __syncwarp(unsigned = ~0u) { cuda_emulator::sync_warp(); }
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) { return cuda_emulator::from_lane(x, cuda_emulator::lane() ^ mask); }
template <class T>
T __shfl_sync(unsigned, T x, int source) { return cuda_emulator::from_lane(x, source); }
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned distance) {
  const int me = cuda_emulator::lane(), source = me - static_cast<int>(distance);
  return cuda_emulator::from_lane(x, source < 0 ? me : source);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const unsigned mine = predicate != 0;
  const cuda_emulator::Slot* all = cuda_emulator::exchange(&mine, sizeof mine);
  unsigned set = 0;
  for (int i = 0; i < 32; ++i) set |= static_cast<unsigned>(all[i].bytes[0]) << i;
  return set;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T>
constexpr T max(T a, T b) { return a < b ? b : a; }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  auto call = [&] { kernel(static_cast<Parameters>(arguments)...); };
  return cuda_emulator::launch(*config, reinterpret_cast<const void*>(kernel), [](void* f) { (*static_cast<decltype(call)*>(f))(); }, &call);
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return cuda_emulator::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

const char* cudaGetErrorString(cudaError_t);
const char* cudaGetErrorName(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void**, size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaMallocHost(void**, size_t);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t);
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
