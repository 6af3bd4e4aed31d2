// What stands for libraries: cuBLASLt's product, which the plain kernel computes as gemm plans it, and the driver's memory.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "cuda_runtime.h"
#include "ops/cuda/gemm_plan.h"
#include "ops/cuda/memory.h"

namespace attune::ops::cuda {
namespace {

constexpr uint64_t kPage = 4096, kMost = uint64_t{8} << 30;
struct Range {
  uint64_t bytes, committed;
};
std::map<void*, Range> ranges;

}  // namespace

const char* library_missing() { return nullptr; }
void multiply(const Product& p) { multiply_plainly(p); }

// Nothing is there before it is committed, nor behind the end.
void* reserve_addresses(uint64_t bytes) {
  const uint64_t all = (bytes + kPage - 1) / kPage * kPage + kPage;  // a page behind the end stays closed
  void* base = ::mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  ranges[base] = {all, 0};
  return base;
}

bool commit_memory(void* base, uint64_t bytes) {
  Range& r = ranges.at(base);
  if (bytes > kMost) return false;
  if (bytes <= r.committed) return true;
  bytes = (bytes + kPage - 1) / kPage * kPage;
  const cuda_emulator::OnDevice device;
  cuda_emulator::add_device_memory(base, bytes);
  // Fresh memory holds anything; not all of it, as pages that nobody touches cost nothing.
  std::memset(static_cast<char*>(base) + r.committed, 0xA5, std::min<uint64_t>(bytes - r.committed, uint64_t{1} << 20));
  r.committed = bytes;
  return true;
}

void release_addresses(void* base) {
  cuda_emulator::remove_device_memory(base);
  ::munmap(base, ranges.at(base).bytes);
  ranges.erase(base);
}

}  // namespace attune::ops::cuda
