// One optimizer update: forward and backward of every micro-batch, clipping, the optimizer's sweep. The same code runs
// dry, which is what `attune plan` measures.
#pragma once

#include <functional>
#include <memory>

#include "objectives/objective.h"
#include "optim/optimizer.h"
#include "util/error.h"

namespace attune::train {

struct EngineOptions {
  DType compute = DType::f32;  // of weights, activations and matrix work; sums are fp32
  nn::Recompute recompute = nn::Recompute::none;
  BatchCapacity capacity;       // training
  BatchCapacity eval_capacity;  // evaluation; zeros where there is none
  int64_t micro_batches = 1;    // per step
  float max_grad_norm = 1.0f;   // 0: off
  bool optimizer_in_backward = false;
  float attention_dropout = 0, hidden_dropout = 0;
  uint64_t seed = 42;
  optim::OptimizerOptions optimizer;
};

// Bytes by part, as planned and as taken.
struct MemoryParts {
  uint64_t weights = 0, masters = 0, gradients = 0, optimizer = 0, activations = 0, tables = 0;
  uint64_t total() const { return weights + masters + gradients + optimizer + activations + tables; }
};

struct StepResult {
  double loss = 0;
  double grad_norm = 0;
};

// The loss of one token is not finite; whoever has the data adds where it stands.
class BadToken : public Error {
 public:
  BadToken(const std::string& message, int64_t sample) : Error(Blame::work, message), sample_(sample) {}
  int64_t sample() const { return sample_; }

 private:
  int64_t sample_;
};

class Engine : public nn::StepHooks {
 public:
  // `model` has its weights, and masters where it is to have them (real or dry storage, matching `kind`). `activation_bytes`: a real engine's arena size, from
  // a dry one's high water.
  Engine(models::Decoder& model, const objectives::Objective& objective, const EngineOptions& options, Arena::Kind kind,
         uint64_t activation_bytes);

  // Throws where loss or gradient is not finite, naming tensor or token; parameters are then untouched
  // (with optimizer_in_backward they may not be).
  StepResult step(const Step& step, int64_t number, float learning_rate);
  // Σ weight·nll over the micro-batch; its total weight is the batch's own.
  double evaluate(const MicroBatch& batch);

  // One full step and one evaluation at capacity, without memory behind them.
  void dry_run();

  const ops::Work& step_work() const { return step_work_; }
  MemoryParts memory() const;
  Arena& arena() { return *arena_; }
  optim::Optimizer& optimizer() { return *optimizer_; }
  models::Decoder& model() { return model_; }
  const EngineOptions& options() const { return options_; }

  void gradient_complete(nn::Parameter& parameter) override;

 private:
  void choose_gradient_dtypes();
  double run_micro_batch(const objectives::BatchView& view, bool last);
  double finish_gradients();
  void update_all(float scale);
  [[noreturn]] void report_bad_loss(const MicroBatch& batch, const objectives::BatchView& view) const;
  [[noreturn]] void report_bad_gradient() const;

  models::Decoder& model_;
  const objectives::Objective& objective_;
  EngineOptions options_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Arena> dry_inputs_;
  std::unique_ptr<ops::Context> context_;
  std::unique_ptr<nn::Tape> tape_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  objectives::BatchView view_;
  std::vector<double> squared_norms_;  // by parameter, in declaration order
  MemoryParts memory_;
  ops::Work step_work_;
  int64_t number_ = 0;
  float learning_rate_ = 0;
};

}  // namespace attune::train
