#include "tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "util/error.h"
#include "util/machine.h"

namespace attune {
namespace {
constexpr uint64_t kAlignment = 64, kCommitStep = uint64_t{64} << 20;
}

Arena::Arena(Place place, uint64_t capacity) : place_(place), capacity_(capacity) {
  const uint64_t bytes = std::max(capacity, kAlignment);
  void* base = nullptr;
  if (place.is_dry()) {  // addresses without access rights
    base = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) base = nullptr;
  } else {
    base = place.device().reserve(bytes);
  }
  if (!base) fail("cannot reserve {} bytes of address space", bytes);
  base_ = static_cast<std::byte*>(base);
}

Arena::~Arena() {
  const uint64_t bytes = std::max(capacity_, kAlignment);
  if (dry()) ::munmap(base_, bytes);
  else device().release(base_, bytes);
}

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
  // Ahead of what is asked for, where there is room for more: taking memory waits for the device.
  if (used_ > committed_) commit_to(std::min(capacity_, (used_ + kCommitStep - 1) / kCommitStep * kCommitStep), "activations");
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

void Arena::commit_to(uint64_t bytes, std::string_view what) {
  if (dry() || device().is_host() || bytes <= committed_) return;
  if (!device().commit(base_, bytes))
    fail("{}: out of memory for {}: {} wanted, {} of {} are free. `attune plan` with the same settings shows what takes the memory and "
         "which settings fit", device().name(), what, format_bytes(bytes - committed_), format_bytes(device().free_memory()),
         format_bytes(device().total_memory()));
  committed_ = bytes;
}

void Arena::commit(std::string_view what) { commit_to(capacity_, what); }

void Arena::clear(std::string_view what) {
  if (used_ > 0) fail("internal error: memory in use was to be cleared");
  commit(what);
  if (!dry() && !device().is_host() && capacity_ > 0) device().zero(base_, capacity_);
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
