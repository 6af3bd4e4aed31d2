// LIFO memory for activations, gradients of activations and kernel workspace. A dry arena hands out addresses
// that are never mapped: it measures, and a look at a value crashes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/device.h"
#include "tensor/tensor.h"

namespace attune {

class Arena {
 public:
  // `capacity` in bytes: addresses. A real arena fails beyond it, and takes memory when it is first used.
  Arena(Place place, uint64_t capacity);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool dry() const { return place_.is_dry(); }
  Device& device() const { return place_.device(); }  // of a real one
  uint64_t used() const { return used_; }
  uint64_t high_water() const { return high_water_; }
  uint64_t capacity() const { return capacity_; }
  void reset_high_water() { high_water_ = used_; }

  // 64-byte aligned; content is undefined.
  void* allocate(uint64_t bytes);
  Tensor matrix(Rows rows, int64_t cols, DType dtype);
  Tensor vector(int64_t n, DType dtype) { return matrix(Rows::exactly(1), n, dtype); }

  // Takes the memory for all of it now, so that it is not missing later. Fails where there is none; `what` it is for.
  void commit(std::string_view what);
  // The same, and makes it zero. Costs nothing on the host, whose fresh pages are. Nothing must be allocated yet.
  void clear(std::string_view what);

  using Mark = uint64_t;
  Mark mark() const { return used_; }
  void release(Mark mark);

  // What is allocated from here on belongs to `part` (a literal), until the next call or until a release reaches
  // below. Only a dry arena keeps the books. Returns the part that it takes over from.
  std::string_view begin_part(std::string_view part);
  // Bytes of each part at the moment of the high water: their sum is high_water().
  std::map<std::string, uint64_t> parts() const;

 private:
  void commit_to(uint64_t bytes, std::string_view what);

  struct Part {
    Mark begin;
    std::string_view name;
  };

  Place place_;
  std::byte* base_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t used_ = 0;
  uint64_t committed_ = 0;  // of a device that is not the host
  uint64_t high_water_ = 0;
  std::vector<Part> parts_{{0, "other"}}, high_parts_;  // lowest first
};

// Releases everything allocated since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

// The same for memory of a part of its own.
class ArenaPart {
 public:
  ArenaPart(Arena& arena, std::string_view part) : arena_(arena), mark_(arena.mark()), outer_(arena.begin_part(part)) {}
  ~ArenaPart() {
    arena_.release(mark_);
    arena_.begin_part(outer_);
  }
  ArenaPart(const ArenaPart&) = delete;
  ArenaPart& operator=(const ArenaPart&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
  std::string_view outer_;
};

}  // namespace attune
