#include <cmath>
#include <numeric>

#include "ops/optimizer_blockwise.h"
#include "optim/rules.h"

namespace attune::optim {
namespace {

int64_t count_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// Scales count blocks from the start of the parameter; codes are the parameter's rows.
Tensor rows_of_8bit(const nn::Parameter& p, const Tensor& state, int64_t first_row, int64_t rows) {
  const int64_t cols = p.weight.cols;
  if (state.rows.count == p.weight.rows.count && state.cols == cols) return state.slice(first_row, rows);
  return state.columns(first_row * cols / ops::kStateBlock, ops::state_blocks(rows * cols));
}

bool slabs_of_8bit(const nn::Parameter& p) { return p.count() < kLeast8bit || p.weight.cols % ops::kStateBlock == 0; }

class Lion8bit : public Optimizer {
 public:
  explicit Lion8bit(const OptimizerOptions& options) : Optimizer(options) {}
  bool accepts_row_slabs(const nn::Parameter& p) const override { return slabs_of_8bit(p); }

 protected:
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    std::vector<Slot> all;
    if (count_of(p.shape) < kLeast8bit) all.push_back({"exp_avg", p.shape, DType::f32});
    else add_8bit_slots(all, "exp_avg", p.shape);
    return all;
  }
  void update(ops::Context& context, const Update& u) override {
    if (u.states.size() == 1) ops::lion(context, {u.stepped, u.states[0], options_.beta1, options_.beta2});
    else ops::lion_8bit(context, {u.stepped, {u.states[0], u.states[1]}, options_.beta1, options_.beta2});
  }
  Tensor state_rows(const nn::Parameter& p, const Tensor& state, int64_t first_row, int64_t rows) const override {
    return rows_of_8bit(p, state, first_row, rows);
  }
};

}  // namespace

float bias_correction(float beta, int64_t step) {
  return static_cast<float>(1 - std::pow(static_cast<double>(beta), static_cast<double>(step)));
}

void apply(ops::Context& context, ops::Stepped of, const Tensor& update, float rate) {
  of.gradient = update;
  of.weight_decay *= of.lr, of.anchor_decay *= of.lr;
  of.lr = 1, of.grad_scale = rate;
  ops::sgd(context, {of, {}, 0, false, false});
}

std::vector<Optimizer::Slot> Adam::slots_of(const std::vector<int64_t>& shape) const {
  std::vector<Slot> all{{"exp_avg", shape, options_.state_dtype}, {"exp_avg_sq", shape, options_.state_dtype}};
  if (options_.amsgrad) all.push_back({"max_exp_avg_sq", shape, options_.state_dtype});
  return all;
}

void Adam::run(ops::Context& context, const ops::Stepped& of, std::span<const Tensor> s, int64_t step, float eps) {
  ops::Adam args{of, s[0], s[1], options_.amsgrad ? s[2] : Tensor{}, options_.beta1, options_.beta2, eps, 1, 1};
  args.correction1 = bias_correction(options_.beta1, step);
  args.correction2 = bias_correction(options_.beta2, step);
  ops::adam(context, args);
}

float Adam::projected_eps(int64_t step) const { return options_.eps / std::sqrt(bias_correction(options_.beta2, step)); }

void add_8bit_slots(std::vector<Optimizer::Slot>& slots, const std::string& kind, const std::vector<int64_t>& shape) {
  slots.push_back({kind, shape, DType::u8});
  slots.push_back({kind + "_absmax", {ops::state_blocks(count_of(shape))}, DType::f32});
}

bool Adam8bit::accepts_row_slabs(const nn::Parameter& p) const { return slabs_of_8bit(p); }

std::vector<Optimizer::Slot> Adam8bit::slots_of(const std::vector<int64_t>& shape) const {
  if (count_of(shape) < kLeast8bit) return {{"exp_avg", shape, DType::f32}, {"exp_avg_sq", shape, DType::f32}};
  std::vector<Slot> all;
  add_8bit_slots(all, "exp_avg", shape);
  add_8bit_slots(all, "exp_avg_sq", shape);
  return all;
}

void Adam8bit::run(ops::Context& context, const ops::Stepped& of, std::span<const Tensor> s, int64_t step, float eps) {
  const float correction1 = bias_correction(options_.beta1, step), correction2 = bias_correction(options_.beta2, step);
  if (s.size() == 2)
    ops::adam(context, {of, s[0], s[1], {}, options_.beta1, options_.beta2, eps, correction1, correction2});
  else
    ops::adam_8bit(context, {of, {s[0], s[1]}, {s[2], s[3]}, options_.beta1, options_.beta2, eps, correction1, correction2});
}

Tensor Adam8bit::state_rows(const nn::Parameter& p, const Tensor& state, int64_t first_row, int64_t rows) const {
  return rows_of_8bit(p, state, first_row, rows);
}

std::unique_ptr<Optimizer> make_lion_8bit(const OptimizerOptions& options) { return std::make_unique<Lion8bit>(options); }

}  // namespace attune::optim
