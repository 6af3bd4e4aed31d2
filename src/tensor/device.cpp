#include "tensor/device.h"

#include <sys/mman.h>

#include <cstring>

#include "util/machine.h"

namespace attune {
namespace {

class Host : public Device {
 public:
  const char* name() const override { return "cpu"; }
  bool is_host() const override { return true; }
  uint64_t total_memory() const override { return total_memory_bytes(); }
  uint64_t free_memory() const override { return available_memory_bytes(); }
  void* reserve(uint64_t bytes) override {
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    ::madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
  uint64_t held_memory() const override { return resident_memory_bytes(); }
  bool commit(void*, uint64_t) override { return true; }
  void release(void* base, uint64_t bytes) override { ::munmap(base, bytes); }
  void upload(void* to, const void* from, uint64_t bytes) override { copy(to, from, bytes); }
  void download(void* to, const void* from, uint64_t bytes) override { copy(to, from, bytes); }
  void copy(void* to, const void* from, uint64_t bytes) override { std::memmove(to, from, bytes); }
  void zero(void* to, uint64_t bytes) override { std::memset(to, 0, bytes); }
  void synchronize() override {}
};

}  // namespace

Device& host() {
  static Host device;
  return device;
}

}  // namespace attune
