// How fast this machine is, measured on the very products, attention and sweeps that a run is made of.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ops/context.h"
#include "train/engine.h"

namespace attune::plan {

// Rates of whole kinds of work, to compare with: what `attune doctor` prints, what MFU is a share of.
struct MachinePace {
  double matrix_flops = 0;  // per second, of a product of 768 × 768 matrices
  double axpy_bytes = 0;    // per second, y += a·x on 2 × 16 MB
};
// About `seconds` of measurement.
MachinePace measure_pace(DType compute, double seconds = 0.7, const ops::Backend& backend = ops::cpu_backend());

// Jobs whose speed counts in FLOPs; that of all others in bytes.
inline bool is_product(const ops::Job& job) { return job.op.starts_with("gemm"); }
inline bool is_attention(const ops::Job& job) { return job.op.starts_with("attention"); }

// Times jobs of a ledger. Sizes are cut so that the budget suffices: rows first, then the sides of huge weights; a cut
// job is taken to run at the same FLOP/s or bytes/s. Measurements go round and round over all jobs, so that a slow moment
// of the machine hits all alike, and the median counts.
class Calibration {
 public:
  // `memory`: bytes that operands may take, where `backend` computes.
  Calibration(double seconds, uint64_t memory, const ops::Backend& backend = ops::cpu_backend());
  ~Calibration();
  class Operands;  // memory to measure on
  void add_budget(double seconds) { budget_ = std::max(0.0, budget_) + seconds; }

  // Measures what matters of the ledger's jobs and of one optimizer update; what is known already is not measured again.
  void measure(const ops::Ledger& ledger, const train::EngineOptions& options, const models::Decoder& model);

  // Seconds that work takes; jobs that were not measured go at the pace of the nearest that was.
  double seconds(const ops::Ledger& ledger) const;
  double seconds(const ops::Job& job, const ops::Ledger::Entry& entry) const;
  // One optimizer update of all trainable parameters.
  double update_seconds(const train::EngineOptions& options, const models::Decoder& model) const;
  // What such an update takes longer in which projections are made anew.
  double refresh_seconds(const train::EngineOptions& options, const models::Decoder& model) const;
  // Until memory that nobody has touched is there: the system clears its pages, a virtual machine may have to find them first.
  double touch_seconds(uint64_t bytes) const { return static_cast<double>(bytes) * touch_seconds_per_byte_; }

 private:
  struct Measurement;  // one thing that is timed again and again
  struct Rate {
    double seconds = 0;  // of one call as measured
    double amount = 1;   // FLOPs (products, attention) or bytes (all else) of that call
  };
  // The rate of a measured sweep, over all trainable parameters.
  static double of_all(const std::map<std::string, Rate>& rates, const train::EngineOptions& options, const models::Decoder& model);
  int64_t rows_within(const ops::Ledger& ledger, double seconds, double flops) const;
  void run(std::vector<Measurement>& all, double until);

  const ops::Backend& backend_;
  double budget_;
  uint64_t operands_bytes_;
  std::unique_ptr<Operands> operands_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<ops::Context> context_;
  std::map<ops::Job, Rate> rates_;
  std::map<std::string, Rate> updates_, refreshes_;  // by what decides an optimizer's cost
  double touch_seconds_per_byte_ = 0;
  std::map<DType, double> matrix_flops_;
  double axpy_bytes_ = 0;
};

}  // namespace attune::plan
