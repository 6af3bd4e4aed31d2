// What a run will take, before it starts: one step of the real engine in dry mode.
#pragma once

#include <string>
#include <vector>

#include "train/setup.h"

namespace attune::plan {

struct MachinePace {
  double matrix_flops = 0;  // per second, measured on this machine in the run's precision
  double axpy_bytes = 0;    // per second
};
// A second of measurement.
MachinePace measure_pace(DType compute);

struct Plan {
  train::MemoryParts parts;
  uint64_t program_bytes = 0;  // the program itself, tokenizer and data
  uint64_t sample_bytes = 0;   // num_generation_samples: cache and workspace of an evaluation's answers
  uint64_t available_bytes = 0;
  double step_flops = 0, step_bytes = 0;
  int64_t steps = 0, tokens = 0;  // updates, and tokens over the whole run
  double seconds = 0, tokens_per_second = 0;  // 0 where the pace was not measured
  uint64_t peak_bytes() const { return parts.total() + program_bytes + sample_bytes; }
  bool fits() const { return peak_bytes() <= available_bytes; }
};

Plan make_plan(const train::RunSetup& setup, bool with_pace);

// Activation bytes alone, for building the real engine.
uint64_t activation_bytes(const train::RunSetup& setup);

// Settings that would lower the peak, those that fit with the fewest changes first, each with the peak it leads to.
struct Suggestion {
  std::string change;
  uint64_t peak_bytes;
  int changes;  // how many settings it names
};
std::vector<Suggestion> suggestions(const train::RunSetup& setup, const Plan& plan);

std::string plan_text(const train::RunSetup& setup, const Plan& plan);
std::string plan_json(const train::RunSetup& setup, const Plan& plan);

}  // namespace attune::plan
