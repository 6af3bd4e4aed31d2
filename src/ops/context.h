// What every op gets: where to compute, where to take workspace from, and the books on work done.
#pragma once

#include <cstdint>

#include "tensor/arena.h"

namespace attune::ops {

struct Backend;

// Work as the mathematics demands it (dry mode counts the same as a real step).
struct Work {
  double flops = 0;
  double bytes = 0;
};

class Context {
 public:
  Context(const Backend& backend, Arena& arena) : backend_(backend), arena_(arena) {}

  const Backend& backend() const { return backend_; }
  Arena& arena() { return arena_; }
  bool dry() const { return arena_.dry(); }
  const Work& work() const { return work_; }
  void reset_work() { work_ = {}; }
  void count(double flops, double bytes) {
    work_.flops += flops;
    work_.bytes += bytes;
  }

 private:
  const Backend& backend_;
  Arena& arena_;
  Work work_;
};

// Shape and dtype checks of the dispatchers: a violation is a programming error and names the op.
void require(bool condition, const char* op, const char* what);

}  // namespace attune::ops
