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
  const bool too_much = rounded < bytes || rounded > capacity_ - used_;
  if (too_much && dry())
    refuse("a step of this configuration needs more than {:.0f} TB of memory: make the batch or the sequences smaller", static_cast<double>(capacity_) / 1e12);
  if (too_much)
    fail("activation memory is exhausted: {} bytes wanted, {} of {} in use. The plan and the step disagree; "
         "please report this with the configuration", rounded, used_, capacity_);
  void* p = base_ + used_;
  used_ += rounded;
  if (used_ > high_water_) {
    high_water_ = used_;
    if (dry()) high_parts_ = parts_;
  }
  return p;
}

Tensor Arena::matrix(Rows rows, int64_t cols, DType dtype) {
  void* p = allocate(static_cast<uint64_t>(rows.capacity * cols) * size_of(dtype));
  return {p, dtype, rows, cols, cols};
}

void Arena::release(Mark mark) {
  if (mark > used_) fail("activation memory was released out of order");
  used_ = mark;
  while (parts_.back().begin > used_) parts_.pop_back();
}

std::string_view Arena::begin_part(std::string_view part) {
  if (!dry()) return part;
  const std::string_view outer = parts_.back().name;
  if (parts_.back().begin == used_) parts_.pop_back();
  if (parts_.empty() || parts_.back().name != part) parts_.push_back({used_, part});
  return outer;
}

std::map<std::string, uint64_t> Arena::parts() const {
  std::map<std::string, uint64_t> bytes;
  for (size_t i = 0; i < high_parts_.size(); ++i)
    bytes[std::string(high_parts_[i].name)] += (i + 1 < high_parts_.size() ? high_parts_[i + 1].begin : high_water_) - high_parts_[i].begin;
  return bytes;
}

}  // namespace attune
