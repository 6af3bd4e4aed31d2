// One GPU: its memory, its one stream, and what ops share there.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <string>

#include "ops/dynamic_map.h"
#include "tensor/device.h"

namespace attune::ops::cuda {

// Both maps of 8-bit states, in device memory.
struct Tables {
  DynamicMap with_sign, unsigned_;
};

class CudaDevice : public Device {
 public:
  // The first device that CUDA_VISIBLE_DEVICES leaves. Throws where there is none.
  CudaDevice();
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const char* name() const override { return name_.c_str(); }
  uint64_t total_memory() const override;
  uint64_t free_memory() const override;
  // Everything in use on the device: other processes there count too.
  uint64_t held_memory() const override { return total_memory() - free_memory(); }
  void* reserve(uint64_t bytes) override;
  bool commit(void* base, uint64_t bytes) override;
  void release(void* base, uint64_t bytes) override;
  void upload(void* to, const void* from, uint64_t bytes) override;
  void download(void* to, const void* from, uint64_t bytes) override;
  void copy(void* to, const void* from, uint64_t bytes) override;
  void zero(void* to, uint64_t bytes) override;
  void synchronize() override;

  cudaStream_t stream() const { return stream_; }
  bool synchronous() const { return synchronous_; }  // ATTUNE_CUDA_SYNC=1: every kernel is waited for
  const Tables* tables() const { return tables_; }
  // For sums on their way inside of one op; the next op may overwrite it.
  static constexpr int64_t kScratch = 4096;
  double* scratch() const { return scratch_; }

 private:
  // Pinned memory that uploads pass through, so that the host need not wait for the device: pieces are used in turn.
  struct Piece {
    cudaEvent_t done = nullptr;
    bool used = false;
  };
  static constexpr uint64_t kPiece = uint64_t{512} << 10;

  std::string name_;
  cudaStream_t stream_ = nullptr;
  bool synchronous_ = false;
  char* staging_ = nullptr;
  std::array<Piece, 64> pieces_;
  size_t next_ = 0;
  Tables* tables_ = nullptr;
  double* scratch_ = nullptr;
};

// Why there is no device to be had, or nullptr; the first call looks.
const char* unavailable();
// The process's one device; throws where there is none.
CudaDevice& device();

}  // namespace attune::ops::cuda
