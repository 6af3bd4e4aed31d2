#include "ops/cuda/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>

#include "ops/cuda/error.h"
#include "ops/cuda/memory.h"

namespace attune::ops::cuda {

CudaDevice::CudaDevice() {
  int count = 0, driver = 0;
  check(cudaDriverGetVersion(&driver), "start", "cudaDriverGetVersion");
  if (driver == 0) fail_with("no NVIDIA driver is installed (libcuda.so.1 was not found)");
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0)
    fail_with(error == cudaSuccess ? "the driver sees no GPU (CUDA_VISIBLE_DEVICES may hide it)"
                                   : std::string("the driver (CUDA ") + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) +
                                         ") has no GPU for this build (CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
                                         std::to_string(CUDART_VERSION % 1000 / 10) + "): " + cudaGetErrorString(error));
  check(cudaSetDevice(0), "start", "cudaSetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "start", "cudaGetDeviceProperties");
  name_ = std::string("cuda (") + properties.name + ")";
  if (properties.major < 8)
    fail_with(std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
              "; 8.0 (Ampere) or newer is needed, for bf16");
  const char* sync = std::getenv("ATTUNE_CUDA_SYNC");
  synchronous_ = sync && *sync && std::strcmp(sync, "0") != 0;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "start", "cudaStreamCreateWithFlags");
  check(cudaMallocHost(reinterpret_cast<void**>(&staging_), kPiece * pieces_.size()), "start", "cudaMallocHost");
  for (Piece& p : pieces_) check(cudaEventCreateWithFlags(&p.done, cudaEventDisableTiming), "start", "cudaEventCreateWithFlags");
  check(cudaMalloc(reinterpret_cast<void**>(&scratch_), kScratch * sizeof(double)), "start", "cudaMalloc");
  check(cudaMalloc(reinterpret_cast<void**>(&tables_), sizeof(Tables)), "start", "cudaMalloc");
  const auto tables = std::make_unique<Tables>(Tables{DynamicMap::with_sign(), DynamicMap::unsigned_()});
  CudaDevice::upload(tables_, tables.get(), sizeof(Tables));
}

// At the end of the process the driver may be gone already: it frees everything itself.
CudaDevice::~CudaDevice() = default;

uint64_t CudaDevice::total_memory() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory", "cudaMemGetInfo");
  return total;
}

uint64_t CudaDevice::free_memory() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory", "cudaMemGetInfo");
  return free;
}

void* CudaDevice::reserve(uint64_t bytes) { return reserve_addresses(bytes); }

bool CudaDevice::commit(void* base, uint64_t bytes) { return commit_memory(base, bytes); }

void CudaDevice::release(void* base, uint64_t) {
  cudaStreamSynchronize(stream_);  // destructors call this: no errors from here
  release_addresses(base);
}

void CudaDevice::upload(void* to, const void* from, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kPiece) {
    const uint64_t n = std::min(kPiece, bytes - at);
    Piece& piece = pieces_[next_];
    char* staged = staging_ + next_ * kPiece;
    next_ = (next_ + 1) % pieces_.size();
    if (piece.used) check(cudaEventSynchronize(piece.done), "upload", "cudaEventSynchronize");
    std::memcpy(staged, static_cast<const char*>(from) + at, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, staged, n, cudaMemcpyHostToDevice, stream_), "upload", "cudaMemcpyAsync");
    check(cudaEventRecord(piece.done, stream_), "upload", "cudaEventRecord");
    piece.used = true;
  }
  if (synchronous_) synchronize();
}

void CudaDevice::download(void* to, const void* from, uint64_t bytes) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "download", "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "download", "cudaStreamSynchronize");
}

void CudaDevice::copy(void* to, const void* from, uint64_t bytes) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy", "cudaMemcpyAsync");
  if (synchronous_) synchronize();
}

void CudaDevice::zero(void* to, uint64_t bytes) {
  if (bytes) check(cudaMemsetAsync(to, 0, bytes, stream_), "zero", "cudaMemsetAsync");
  if (synchronous_) synchronize();
}

void CudaDevice::synchronize() { check(cudaStreamSynchronize(stream_), "synchronize", "cudaStreamSynchronize"); }

namespace {

struct Found {
  std::unique_ptr<CudaDevice> device;
  std::string why;
};

const Found& found() {
  // Never freed: memory of the device may be released at the very end of the process.
  static const Found& all = *new Found([] {
    Found f;
    try {
      f.device = std::make_unique<CudaDevice>();
    } catch (const std::exception& e) {
      f.why = e.what();
    }
    return f;
  }());
  return all;
}

}  // namespace

const char* unavailable() { return found().device ? nullptr : found().why.c_str(); }

CudaDevice& device() {
  if (const char* why = unavailable()) fail_with(std::string("there is no CUDA device: ") + why);
  return *found().device;
}

}  // namespace attune::ops::cuda
