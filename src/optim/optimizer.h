// Optimizers step one parameter at a time, so that they work inside and outside of the backward pass.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nn/parameter.h"
#include "ops/optimizer.h"

namespace attune::optim {

// apollo, galore, galore_8bit: how gradients are projected.
struct LowRankOptions {
  int64_t rank = 128;        // at most the smaller side of a matrix
  int64_t update_gap = 200;  // steps between new projections
  float scale = 0.25f;       // of the update; APOLLO takes its root
  std::string side = "std";  // "std": projects the longer side's rows (R ≥ C: right), "reverse_std", "right", "left"
  bool random = true;               // apollo: normal numbers; otherwise singular vectors, as GaLore
  std::string scale_type = "channel";  // apollo: one factor a "channel" or a "tensor"
  bool scale_front = false;            // apollo: scale before the norm-growth limiter
};

// muon, as torch.optim.Muon.
struct MuonOptions {
  float momentum = 0.95f, eps = 1e-7f;
  bool nesterov = true;
  int64_t steps = 5;  // of Newton–Schulz
  std::array<float, 3> coefficients{3.4445f, -4.7750f, 2.0315f};
  std::string adjust_lr = "original";  // "original", "match_rms_adamw", "spectral_unclamped"
};

struct OptimizerOptions {
  // adamw, adam, sgd, lion, adafactor; with 8-bit states adamw_8bit, lion_8bit; lomo (sgd);
  // adalomo (adafactor with scale_parameter); and for hidden matrices, the rest being AdamW's: apollo, galore, galore_8bit,
  // muon.
  std::string name = "adamw";
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  // Not applied to norms and biases. adamw, lion, adafactor decay the weight itself; adam and sgd add it to the
  // gradient, as PyTorch does. `anchor_decay` is the same towards Parameter::anchor instead of zero.
  float weight_decay = 0, anchor_decay = 0;
  bool amsgrad = false;                      // adam, adamw
  float momentum = 0;                        // sgd
  bool nesterov = false;                     // sgd
  bool scale_parameter = false;              // adafactor
  float clip_threshold = 1, decay_rate = -0.8f;  // adafactor
  DType state_dtype = DType::f32;            // bf16: rounded stochastically
  // Of the last four: patterns over names of matrices (not tables); empty: all of them.
  std::vector<std::string> targets;
  LowRankOptions low_rank;
  MuonOptions muon;
  uint64_t seed = 42;                        // of stochastic rounding and projections

  // Every how many steps, from the first on, a step also makes new projections; 0: none does.
  int64_t refresh_interval() const { return name.starts_with("apollo") || name.starts_with("galore") ? low_rank.update_gap : 0; }
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
  static const std::vector<std::string>& names();
  // A state: what it is called in a checkpoint, its shape (one or two dimensions) and type.
  struct Slot {
    std::string kind;
    std::vector<int64_t> shape;
    DType dtype;
  };

  // Storage for the states of the trainable parameters, zeroed. Returns the bytes taken.
  uint64_t allocate(Place place, const nn::ParameterStore& parameters);
  Device& device() const { return memory_->device(); }  // where the states lie
  // `step` counts from 1. The gradient is multiplied by `grad_scale` on the way, the rate by Parameter::lr_scale.
  void step(ops::Context& context, nn::Parameter& parameter, int64_t step, float learning_rate, float grad_scale);
  // Whether a slab of rows can be stepped before the gradient of the others is known.
  virtual bool accepts_row_slabs(const nn::Parameter&) const { return true; }
  // Steps rows [first_row, first_row + gradient rows) alone, with exactly the result that the whole step has for them.
  // `gradient_of_rows` [rows, cols] stands in for Parameter::gradient. Only where accepts_row_slabs.
  void step_rows(ops::Context& context, nn::Parameter& parameter, int64_t first_row, const Tensor& gradient_of_rows, int64_t step,
                 float learning_rate, float grad_scale);
  std::vector<StateTensor> states() const;
  // `to` takes over the memory of `from`'s states, which begin anew. Both have the same shape.
  void hand_over(const nn::Parameter& from, const nn::Parameter& to);

 protected:
  explicit Optimizer(const OptimizerOptions& options) : options_(options) {}
  // Whether hidden matrices are treated apart; is_target is one of those.
  virtual bool has_targets() const { return false; }
  bool is_target(const nn::Parameter& parameter) const { return targets_.count(&parameter) > 0; }

  virtual std::vector<Slot> slots(const nn::Parameter& parameter) const = 0;
  // What update() needs: the parameter for its name and shape, `stepped` for its numbers.
  struct Update {
    const nn::Parameter& parameter;
    ops::Stepped stepped;
    const std::vector<Tensor>& states;  // in the order of slots()
    int64_t step;                       // from 1
    uint64_t name_key;                  // what is random about this parameter
  };
  virtual void update(ops::Context& context, const Update& update) = 0;
  // The part of a state that belongs to `rows` rows of the parameter from `first_row` on.
  virtual Tensor state_rows(const nn::Parameter&, const Tensor& state, int64_t first_row, int64_t rows) const {
    return state.slice(first_row, rows);
  }
  virtual bool decoupled() const { return true; }

  OptimizerOptions options_;

 private:
  struct Owned {
    std::vector<Slot> slots;
    std::vector<Tensor> tensors, of_rows;  // of_rows: views that step_rows makes, kept so that it takes no memory
    uint64_t key;  // of the HF name, so that sharding changes no rounding
  };
  void find_targets(const nn::ParameterStore& parameters);
  ops::Stepped stepped(nn::Parameter& parameter, int64_t step, float learning_rate, float grad_scale) const;

  std::unique_ptr<Arena> memory_;
  std::map<const nn::Parameter*, Owned> owned_;
  std::vector<const nn::Parameter*> order_;
  std::set<const nn::Parameter*> targets_;
};

// The learning rate of some parameters: the first group whose pattern (PCRE2) is found in a name decides.
struct LrGroup {
  std::string pattern;
  double scale = 1;  // of the run's learning rate
};
// Sets Parameter::lr_scale; refuses a pattern that finds no trainable parameter.
void apply_groups(const std::vector<LrGroup>& groups, nn::ParameterStore& parameters);

}  // namespace attune::optim
