// What every op gets: where to compute, where to take workspace from, and the books on work done.
#pragma once

#include <memory>

#include "ops/op_clock.h"
#include "tensor/arena.h"

namespace attune::ops {

struct Backend;

class Context {
 public:
  Context(const Backend& backend, Arena& arena)
      : backend_(backend), arena_(arena), ledger_(arena.dry() ? std::make_unique<Ledger>() : nullptr) {}

  const Backend& backend() const { return backend_; }
  Device& device() const;
  Arena& arena() { return arena_; }
  bool dry() const { return arena_.dry(); }
  const Work& work() const { return work_; }
  // Since the last reset; null outside of dry mode, where only the sums are kept.
  const Ledger* ledger() const { return ledger_.get(); }
  void reset_work() {
    work_ = {};
    if (ledger_) *ledger_ = {};
  }
  void count(const Job& job, double rows, const Work& work) {
    work_.flops += work.flops;
    work_.bytes += work.bytes;
    if (ledger_) ledger_->add(job, rows, work);
    if (clock_) clock_->book(job, rows, work);
  }
  // From here on every op is timed; null ends it. `clock` must live as long.
  void watch(OpClock* clock) { clock_ = clock; }
  // What has no shape worth telling apart.
  void count(std::string_view op, double flops, double bytes) { count({op}, 0, {flops, bytes}); }

 private:
  const Backend& backend_;
  Arena& arena_;
  Work work_;
  std::unique_ptr<Ledger> ledger_;
  OpClock* clock_ = nullptr;
};

// Shape and dtype checks of the dispatchers: a violation is a programming error and names the op.
void require(bool condition, const char* op, const char* what);

}  // namespace attune::ops
