#include "tensor/arena.h"

#include <sys/mman.h>

#include "util/error.h"

namespace attune {
namespace {
constexpr uint64_t kAlignment = 64;
}

Arena::Arena(Kind kind, uint64_t capacity) : kind_(kind), capacity_(capacity) {
  // A dry arena reserves addresses without access rights; a real one gets pages when they are first touched.
  const int protection = kind == Kind::dry ? PROT_NONE : PROT_READ | PROT_WRITE;
  const uint64_t bytes = capacity == 0 ? kAlignment : capacity;
  void* base = ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail("cannot reserve {} bytes of address space", bytes);
  if (kind == Kind::real) ::madvise(base, bytes, MADV_HUGEPAGE);
  base_ = static_cast<std::byte*>(base);
}

Arena::~Arena() { ::munmap(base_, capacity_ == 0 ? kAlignment : capacity_); }

void* Arena::allocate(uint64_t bytes) {
  const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded < bytes || rounded > capacity_ - used_)
    fail("activation memory is exhausted: {} bytes wanted, {} of {} in use. The plan and the step disagree; "
         "please report this with the configuration", rounded, used_, capacity_);
  void* p = base_ + used_;
  used_ += rounded;
  if (used_ > high_water_) high_water_ = used_;
  return p;
}

Tensor Arena::matrix(Rows rows, int64_t cols, DType dtype) {
  void* p = allocate(static_cast<uint64_t>(rows.capacity * cols) * size_of(dtype));
  return {p, dtype, rows, cols, cols};
}

void Arena::release(Mark mark) {
  if (mark > used_) fail("activation memory was released out of order");
  used_ = mark;
}

}  // namespace attune
