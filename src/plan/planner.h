// What a run will take, before it starts: steps of the real engine in dry mode, and the pace of this machine.
#pragma once

#include <string>
#include <vector>

#include "plan/calibration.h"
#include "train/setup.h"

namespace attune::plan {

struct Plan {
  train::MemoryParts parts;
  // Of parts.activations, at the moment of its high water: "blocks" (what the blocks keep for backward, and the residual
  // stream), "head" (final norm, logits of a chunk), "backward" (the block in work), "gradients" (of parameters, with
  // optimizer_in_backward), "workspace" (of kernels).
  std::map<std::string, uint64_t> arena;
  // Resident now: the program itself, tokenizer and data; of a stream what its windows will take too. On a GPU what is held there
  // now: the driver's context, and other processes.
  uint64_t program_bytes = 0;
  uint64_t library_bytes = 0;  // what the math library takes when it computes
  uint64_t sample_bytes = 0;   // num_generation_samples: cache and workspace of an evaluation's answers
  uint64_t reference_bytes = 0;  // by which ref_model, which computes alone before the run, takes more than the run itself
  uint64_t available_bytes = 0;  // where the run computes
  int64_t parameters = 0, trainable = 0, layers = 0;
  bool from_data = false;             // else the worst case from cutoff_len
  ops::Work step;                     // of a mean update
  int64_t updates = 0, tokens = 0;    // over the whole run; 0 where neither data nor max_steps say
  double tokens_per_update = 0;
  // 0 where the machine was not measured, or the number of updates is not known.
  double update_seconds = 0, evaluation_seconds = 0, checkpoint_seconds = 0;  // one update; all evaluations; all checkpoints
  // What some updates take longer: memory that is touched first, a pass to measure, new projections; and the reference model's
  // pass over the data.
  double extra_seconds = 0;
  double tokens_per_second = 0, seconds = 0;

  uint64_t peak_bytes() const { return parts.total() + program_bytes + library_bytes + sample_bytes + reference_bytes; }
  bool fits() const { return peak_bytes() <= available_bytes; }
  // So near the limit that the machine may begin to swap.
  bool tight() const { return fits() && static_cast<double>(peak_bytes()) > 0.9 * static_cast<double>(available_bytes); }
};

// `calibration`: null where only memory is asked for.
Plan make_plan(const train::RunSetup& setup, Calibration* calibration);
// The same for other settings over the same tokens. Where their cutoff_len is smaller, memory is at most, and speed as if it were not.
Plan make_plan(const train::RunSetup& setup, const train::Config& config, Calibration* calibration);

// Operands of a calibration must not become the peak of a small run.
uint64_t calibration_memory(const Plan& plan);

// Activation bytes alone, for building the real engine.
uint64_t activation_bytes(const train::RunSetup& setup);

}  // namespace attune::plan
