// Optimizers step one parameter at a time, so that they work inside and outside of the backward pass.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nn/parameter.h"
#include "ops/context.h"

namespace attune::optim {

struct OptimizerOptions {
  std::string name = "adamw";  // "adamw" or "sgd"
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float weight_decay = 0;  // not applied to norms and biases
};

// A state tensor as checkpoints know it: by HF name and kind ("exp_avg", "exp_avg_sq").
struct StateTensor {
  std::string name;  // "<parameter>.<kind>"
  std::vector<int64_t> shape;
  Tensor tensor;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  static std::unique_ptr<Optimizer> create(const OptimizerOptions& options);

  // Storage for the states of the trainable parameters, zeroed. Returns the bytes taken.
  virtual uint64_t allocate(Arena::Kind kind, const nn::ParameterStore& parameters) = 0;
  // `step` counts from 1. The gradient is multiplied by `grad_scale` on the way.
  virtual void step(ops::Context& context, nn::Parameter& parameter, int64_t step, float learning_rate, float grad_scale) = 0;
  virtual std::vector<StateTensor> states() const = 0;
};

}  // namespace attune::optim
