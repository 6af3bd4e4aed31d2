// The optimizers of this room, for each other: one that treats hidden matrices its own way is AdamW for the rest.
#pragma once

#include <span>

#include "optim/optimizer.h"

namespace attune::optim {

float bias_correction(float beta, int64_t step);  // 1 − βᵗ

// Adam and AdamW with states in OptimizerOptions::state_dtype.
class Adam : public Optimizer {
 public:
  explicit Adam(const OptimizerOptions& options, bool decoupled = true) : Optimizer(options), decoupled_(decoupled) {}

 protected:
  std::vector<Slot> slots(const nn::Parameter& p) const override { return slots_of(p.shape); }
  void update(ops::Context& context, const Update& u) override { run(context, u.stepped, u.states, u.step, options_.eps); }
  bool decoupled() const override { return decoupled_; }

  std::vector<Slot> slots_of(const std::vector<int64_t>& shape) const;
  void run(ops::Context& context, const ops::Stepped& of, std::span<const Tensor> states, int64_t step, float eps);
  // galore_torch's AdamW adds eps to √v before the bias correction, PyTorch's behind it.
  float projected_eps(int64_t step) const;

 private:
  bool decoupled_;
};

// AdamW with 8-bit states. Tensors of fewer than 4096 elements keep fp32 ones, as with bitsandbytes.
class Adam8bit : public Optimizer {
 public:
  explicit Adam8bit(const OptimizerOptions& options) : Optimizer(options) {}
  bool accepts_row_slabs(const nn::Parameter& p) const override;

 protected:
  std::vector<Slot> slots(const nn::Parameter& p) const override { return slots_of(p.shape); }
  void update(ops::Context& context, const Update& u) override { run(context, u.stepped, u.states, u.step, options_.eps); }
  Tensor state_rows(const nn::Parameter& p, const Tensor& state, int64_t first_row, int64_t rows) const override;

  std::vector<Slot> slots_of(const std::vector<int64_t>& shape) const;
  void run(ops::Context& context, const ops::Stepped& of, std::span<const Tensor> states, int64_t step, float eps);
  float projected_eps(int64_t) const { return options_.eps; }
};

inline constexpr int64_t kLeast8bit = 4096;
// Codes and scales of one state.
void add_8bit_slots(std::vector<Optimizer::Slot>& slots, const std::string& kind, const std::vector<int64_t>& shape);

std::unique_ptr<Optimizer> make_lion_8bit(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_apollo(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_galore(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_galore_8bit(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& options);

// p ← p·(1 − lr·decay) − rate·update, with the decay of `of`; the update takes the place of the gradient.
void apply(ops::Context& context, ops::Stepped of, const Tensor& update, float rate);

}  // namespace attune::optim
