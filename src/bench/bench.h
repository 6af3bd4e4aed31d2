// The kernels and the whole step of a configuration on this machine, next to what the machine can do at most.
#pragma once

#include <string>
#include <vector>

#include "train/setup.h"

namespace attune::bench {

// One op in one shape, as it ran inside the step.
struct Kernel {
  std::string op, role, shape;  // role of products: "forward", "input gradient", "weight gradient"; of others "forward", "backward", "update"
  double calls = 0, seconds = 0;  // of one step
  bool by_bytes = false;          // what `rate` counts: bytes, else FLOPs
  double rate = 0;                // a second
  double share = 0;               // of the matrix peak, or of axpy bandwidth
};

// One answer of greedy decoding with its cache, one token at a time.
struct Generation {
  double tokens_per_second = 0;
  double share = 0;  // of read bandwidth: every weight is read once a token
};

struct Part {
  std::string name;
  double seconds = 0;
};

struct Result {
  double bf16_flops = 0, fp32_flops = 0, axpy_bytes = 0, read_bytes = 0;  // a second
  std::string model;          // "qwen2, 494 M parameters, 4 × 512 tokens, bf16, adamw"
  int threads = 0;
  double flops_per_token = 0;  // forward and backward, causal, nothing counted that is computed twice
  int64_t tokens = 0;          // of a step
  std::vector<double> seconds, mfu;  // of each step that counts
  double step_seconds = 0, tokens_per_second = 0, step_mfu = 0;  // of the step whose MFU is the median
  bool steady = true;          // the machine kept its speed (within 5 %) around every step that counts
  uint64_t peak_memory_bytes = 0;
  std::vector<Kernel> kernels;  // of that step, those that take longest first
  std::vector<Part> parts;      // their seconds add up to step_seconds
  Generation generation;
};

// Of a model with random weights, over random tokens: `setup` is one without data (train::prepare_without_data). One step to warm up,
// then `steps`; a step around which the machine changed its speed is repeated, a few times at most. Memory is for the caller to plan.
Result run(const train::RunSetup& setup, int steps);

// 6·(N + V·d) + 6·L·T·q: products of the weights and causal attention over sequences of `length`.
double flops_per_token(const models::DecoderConfig& config, int64_t length);

std::string result_text(const Result& result);
std::string result_json(const Result& result);

}  // namespace attune::bench
