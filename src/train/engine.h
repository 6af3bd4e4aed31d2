// One optimizer update: forward and backward of every micro-batch, clipping, the optimizer's sweep. The same code runs
// dry, which is what `attune plan` measures.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "objectives/objective.h"
#include "ops/backend.h"
#include "optim/optimizer.h"
#include "train/loss_scaler.h"
#include "tuning/block_rotation.h"
#include "tuning/tuner.h"
#include "util/error.h"

namespace attune::train {

// What max_grad_norm is compared with. With updates inside backward the norm of all gradients is not known in time:
// `previous_step` takes that of the update before, times how much longer or shorter than then the gradients are that
// backward has passed so far; and no single tensor may exceed max_grad_norm (which global clipping implies). `per_tensor`:
// each parameter's own norm. The first update has none before it: backward goes through it twice, the first time to measure.
enum class Clipping { global, previous_step, per_tensor };

struct EngineOptions {
  const ops::Backend* backend = &ops::cpu_backend();  // where it computes
  DType compute = DType::f32;  // of weights, activations and matrix work; sums are fp32
  bool masters = false;        // fp32 copies that the optimizer steps; without, bf16 weights are rounded stochastically
  bool loss_scaling = false;   // fp16
  tuning::TunerOptions tuning;
  std::optional<tuning::RotationOptions> rotation;  // use_badam
  std::vector<optim::LrGroup> lr_groups;
  DType anchor_dtype = DType::f32;  // of the base's copy, where optimizer.anchor_decay asks for one
  nn::Recompute recompute = nn::Recompute::light;
  BatchCapacity capacity;       // training
  BatchCapacity eval_capacity;  // evaluation; zeros where there is none
  int64_t micro_batches = 1;    // per step
  float max_grad_norm = 1.0f;   // 0: off
  Clipping clipping = Clipping::global;
  bool optimizer_in_backward = false;
  float attention_dropout = 0, hidden_dropout = 0, embedding_dropout = 0, neftune_noise_alpha = 0;
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
  // Where the loss is one of tokens: labelled ones, and those whose label was the likeliest word.
  int64_t labels = 0, correct = 0;
  bool skipped = false;             // fp16: the gradients overflowed, nothing was updated, the loss scale was halved
};

// Chooses what is trained and takes storage for weights and masters.
void allocate_model(models::Decoder& model, const EngineOptions& options, Place place);

// The loss of one token is not finite; whoever has the data adds where it stands.
class BadToken : public Error {
 public:
  BadToken(const std::string& message, int64_t sample) : Error(Blame::work, message), sample_(sample) {}
  int64_t sample() const { return sample_; }

 private:
  int64_t sample_;
};

// A gradient was not finite after updates inside backward had changed other parameters: the model in memory is of no use.
class SpoiledModel : public Error {
 public:
  explicit SpoiledModel(const std::string& message) : Error(Blame::work, message) {}
};

class Engine : public nn::StepHooks {
 public:
  // `model` comes from allocate_model with the same options and `place`, and holds the base's weights where a copy of
  // them is wanted. `activation_bytes`: a real engine's arena size, from a dry one's high water.
  Engine(models::Decoder& model, const objectives::Objective& objective, const EngineOptions& options, Place place,
         uint64_t activation_bytes);

  // Throws where loss or gradient is not finite, naming tensor or token; parameters are then untouched, or with
  // optimizer_in_backward and a gradient a SpoiledModel is thrown.
  StepResult step(const Step& step, int64_t number, float learning_rate);
  // Before a checkpoint of update `number` is loaded: lets those parameters learn that did then.
  void resume_at(int64_t number);
  // Adds the outcomes of the step's sequences to `outcomes`, and to `measures` where there is one.
  void evaluate(const Step& step, std::vector<objectives::Outcome>& outcomes, objectives::Measures* measures = nullptr);
  // Replaces `out` by what the labels of the batch's sequences come to with the model as it is now. `training`: which of the
  // capacities the batch belongs to.
  void measure_sequences(const MicroBatch& batch, bool training, std::vector<objectives::SequenceLogp>& out);

  // One full step and one evaluation at capacity, each where it has one, without memory behind them.
  void dry_run();

  const ops::Work& step_work() const { return step_work_; }
  MemoryParts memory() const;
  Arena& arena() { return *arena_; }
  ops::Context& context() { return *context_; }
  optim::Optimizer& optimizer() { return *optimizer_; }
  models::Decoder& model() { return model_; }
  LossScaler& scaler() { return scaler_; }
  const objectives::Objective& objective() const { return objective_; }
  // Of all updates since they were last cleared.
  objectives::Measures& measures() { return measures_; }
  const EngineOptions& options() const { return options_; }
  // Squared gradient norms of the last update in the order in which backward completed them, empty before the first: what
  // clipping: previous_step needs, and a checkpoint keeps.
  const std::vector<double>& completed_squares() const { return completed_; }
  void set_completed_squares(std::vector<double> squares) { completed_ = std::move(squares); }

  void gradient_complete(nn::Parameter& parameter) override;
  nn::RowSlabs row_slabs(const nn::Parameter& parameter) override;
  void rows_complete(nn::Parameter& parameter, int64_t first_row, const Tensor& gradient) override;

 private:
  void choose_gradient_dtypes();
  bool used_at_once(const nn::Parameter& parameter) const;
  void derived_complete(nn::Parameter& parameter);
  double run_micro_batch(const objectives::BatchView& view, bool last);
  void measure(const MicroBatch& batch, double normaliser);
  void look_ahead(const Step& step, bool training);
  void finish_gradients(StepResult& result);
  void update_all(float scale);
  bool tied(const nn::Parameter& parameter) const;
  size_t index_of(const nn::Parameter& parameter) const;
  void begin_norms();
  void fetch_norms();
  double note_norm(const nn::Parameter& parameter, const Tensor& gradient);
  float tensor_scale(double squared_norm) const;
  float scale_inside(double squared_norm) const;
  [[noreturn]] void report_bad_loss(const MicroBatch& batch, const objectives::BatchView& view) const;
  [[noreturn]] void report_bad_gradient() const;

  models::Decoder& model_;
  const objectives::Objective& objective_;
  EngineOptions options_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Arena> dry_inputs_;
  std::unique_ptr<Arena> inputs_;  // of batches, where the device is not the host
  std::unique_ptr<Arena> norm_memory_;
  double* norms_ = nullptr;  // squared gradient norms by parameter, where gradients lie
  std::unique_ptr<ops::Context> context_;
  std::unique_ptr<nn::Tape> tape_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::optional<tuning::BlockRotation> rotation_;
  std::optional<tuning::TensorTrain> tensor_train_;
  objectives::BatchView view_;
  objectives::Measures measures_;
  std::vector<objectives::SequenceLogp> ahead_, seen_;
  std::vector<double> squared_norms_;  // by parameter, in declaration order
  MemoryParts memory_;
  ops::Work step_work_;
  LossScaler scaler_;
  bool measuring_ = false;  // backward takes norms and updates nothing
  std::vector<double> completed_, completed_before_;  // squared norms of this update so far, and of the one before
  int64_t number_ = 0;
  int64_t updated_ = 0;  // parameters that this step's backward has changed
  int64_t updates() const;  // that the optimizer has made with these parameters, this one included
  float learning_rate_ = 0;
};

}  // namespace attune::train
