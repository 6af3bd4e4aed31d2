// What a step asks of the machine, op by op: kept in dry mode, so that its time can be told before it runs.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string_view>

#include "tensor/dtype.h"

namespace attune::ops {

// Work as the mathematics demands it (dry mode counts the same as a real step).
struct Work {
  double flops = 0;
  double bytes = 0;
};

// All that the speed of a call depends on, but for the number of rows.
//   gemm_nt (forward), gemm_nn (input gradient): shape {N, K}, rows M     gemm_tn (weight gradient): shape {M, N}, rows K
//   attention: shape {heads, kv_heads, head_dim}                          others: {columns} or nothing
struct Job {
  std::string_view op;  // a literal
  std::array<int64_t, 3> shape{};
  std::array<DType, 3> dtypes{};  // gemm: of A, B, C; others: the first counts
  bool accumulate = false;
  auto operator<=>(const Job&) const = default;
};

class Ledger {
 public:
  struct Entry {
    double calls = 0, rows = 0;
    Work work;
  };
  void add(const Job& job, double rows, const Work& work) { add(job, {1, rows, work}); }
  void add(const Job& job, const Entry& more) {
    Entry& e = entries_[job];
    e.calls += more.calls;
    e.rows += more.rows;
    e.work.flops += more.work.flops;
    e.work.bytes += more.work.bytes;
  }
  // Adds `share` of another ledger; a negative one takes it out again.
  void add(const Ledger& other, double share) {
    for (const auto& [job, e] : other.entries_)
      add(job, {share * e.calls, share * e.rows, {share * e.work.flops, share * e.work.bytes}});
  }
  Work total() const {
    Work sum;
    for (const auto& [job, e] : entries_) sum.flops += e.work.flops, sum.bytes += e.work.bytes;
    return sum;
  }
  const std::map<Job, Entry>& entries() const { return entries_; }

 private:
  std::map<Job, Entry> entries_;
};

}  // namespace attune::ops
