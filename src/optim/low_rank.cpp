// GaLore (Zhao et al. 2024, galore_torch) and APOLLO (Zhu et al. 2024, apollo_torch): hidden matrices are stepped by what
// their gradient looks like through a projection; everything else by AdamW. Both decay the weight behind the update, as
// their sources do.
#include <algorithm>
#include <cmath>

#include "ops/backend.h"
#include "ops/elementwise.h"
#include "optim/rules.h"
#include "util/rng.h"

namespace attune::optim {
namespace {

bool on_the_right(const LowRankOptions& o, const nn::Parameter& p) {
  const bool tall = p.shape[0] >= p.shape[1];
  return o.side == "right" || (o.side == "std" && tall) || (o.side == "reverse_std" && !tall);
}
int64_t rank_of(const LowRankOptions& o, const nn::Parameter& p) { return std::min({o.rank, p.shape[0], p.shape[1]}); }
std::vector<int64_t> low_shape(const LowRankOptions& o, const nn::Parameter& p) {
  return on_the_right(o, p) ? std::vector<int64_t>{p.shape[0], rank_of(o, p)} : std::vector<int64_t>{rank_of(o, p), p.shape[1]};
}
std::vector<int64_t> projector_shape(const LowRankOptions& o, const nn::Parameter& p) {
  return {rank_of(o, p), p.shape[on_the_right(o, p) ? 1 : 0]};
}

// A new projection every `update_gap` steps, the first at step 1; also where there is none, for a parameter whose first
// gradient came later.
bool is_due(ops::Context& context, const LowRankOptions& o, const Tensor& projector, int64_t step) {
  if (context.dry() || (step - 1) % o.update_gap == 0) return true;
  return ops::squared_norm(context, projector) == 0;
}

void project(ops::Context& context, const Tensor& gradient, const Tensor& projector, bool right, const Tensor& low) {
  if (right) ops::gemm(context, {gradient, projector, low, false, true, false});
  else ops::gemm(context, {projector, gradient, low, false, false, false});
}

// `Rest` steps the projected gradient as if it were the parameter's, and parameters that are not projected as they are.
template <class Rest>
class Galore : public Rest {
 public:
  explicit Galore(const OptimizerOptions& options) : Rest(options) {}
  bool accepts_row_slabs(const nn::Parameter& p) const override { return !this->is_target(p) && Rest::accepts_row_slabs(p); }

 protected:
  using typename Optimizer::Slot;
  using typename Optimizer::Update;

  bool has_targets() const override { return true; }
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    if (!this->is_target(p)) return Rest::slots(p);
    const LowRankOptions& o = this->options_.low_rank;
    std::vector<Slot> all = Rest::slots_of(low_shape(o, p));
    all.push_back({"projector", projector_shape(o, p), p.weight.dtype == DType::f32 ? DType::f32 : DType::bf16});
    return all;
  }

  void update(ops::Context& context, const Update& u) override {
    if (!this->is_target(u.parameter)) return Rest::update(context, u);
    const LowRankOptions& o = this->options_.low_rank;
    const ops::Stepped& of = u.stepped;
    const bool right = on_the_right(o, u.parameter);
    const Tensor& projector = u.states.back();
    if (is_due(context, o, projector, u.step)) ops::singular_vectors(context, {of.gradient, projector, right});
    ArenaScope scope(context.arena());
    const auto shape = low_shape(o, u.parameter);
    const Tensor low = context.arena().matrix(Rows::exactly(shape[0]), shape[1], DType::f32);
    const Tensor delta = context.arena().matrix(Rows::exactly(shape[0]), shape[1], DType::f32);
    project(context, of.gradient, projector, right, low);
    ops::fill_zero(context, delta);
    ops::Stepped projected;
    projected.parameter = delta, projected.gradient = low;
    projected.grad_scale = of.grad_scale, projected.lr = of.lr;
    Rest::run(context, projected, std::span(u.states).first(u.states.size() - 1), u.step, this->projected_eps(u.step));
    project_back(context, of, projector, delta, right);
  }

 private:
  // In slabs of rows, so that the full update never needs memory.
  void project_back(ops::Context& context, const ops::Stepped& of, const Tensor& projector, const Tensor& delta, bool right) {
    const int64_t rows = of.parameter.rows.count, cols = of.parameter.cols;
    const int64_t slab = std::clamp<int64_t>((1 << 20) / cols, 1, rows);
    const Tensor memory = context.arena().matrix(Rows::exactly(slab), cols, DType::f32);
    const float rate = -this->options_.low_rank.scale * (1 - of.lr * of.weight_decay);
    for (int64_t first = 0; first < rows; first += slab) {
      const int64_t n = std::min(slab, rows - first);
      const Tensor update = memory.slice(0, n);
      if (right) ops::gemm(context, {delta.slice(first, n), projector, update, false, false, false});
      else ops::gemm(context, {projector.columns(first, n), delta, update, true, false, false});
      apply(context, of.rows(first, n), update, rate);
    }
  }
};

class Apollo : public Adam {
 public:
  explicit Apollo(const OptimizerOptions& options) : Adam(options) {}
  bool accepts_row_slabs(const nn::Parameter& p) const override { return !is_target(p); }

 protected:
  bool has_targets() const override { return true; }
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    if (!is_target(p)) return Adam::slots(p);
    const LowRankOptions& o = options_.low_rank;
    const DType dtype = rank_of(o, p) == 1 || p.weight.dtype == DType::f32 ? DType::f32 : DType::bf16;
    return {{"exp_avg", low_shape(o, p), DType::f32}, {"exp_avg_sq", low_shape(o, p), DType::f32},
            {"projector", projector_shape(o, p), dtype}, {"scaled_grad", {1}, DType::f32}};
  }

  void update(ops::Context& context, const Update& u) override {
    if (!is_target(u.parameter)) return Adam::update(context, u);
    const LowRankOptions& o = options_.low_rank;
    const ops::Stepped& of = u.stepped;
    const Tensor &m = u.states[0], &v = u.states[1], &projector = u.states[2], &previous = u.states[3];
    const bool right = on_the_right(o, u.parameter);
    refresh(context, u, projector, right);
    ArenaScope scope(context.arena());
    ops::ChannelSums sums;
    sums.gradient = of.gradient, sums.columns = !right;
    sums.squares = context.arena().vector(right ? of.parameter.rows.count : of.parameter.cols, DType::f32);
    Tensor low = context.arena().matrix(m.rows, m.cols, DType::f32);
    if (projector.rows.count == 1) sums.direction = projector, sums.products = flat(low);
    ops::channel_sums(context, sums);
    if (projector.rows.count > 1) project(context, of.gradient, projector, right, low);
    ops::ApolloFactors args{low, m, v, !right, o.scale_type == "tensor", sums.squares, previous, {}};
    args.factors = context.arena().vector(sums.squares.cols, DType::f32);
    args.grad_scale = of.grad_scale, args.beta1 = options_.beta1, args.beta2 = options_.beta2, args.eps = options_.eps;
    args.scale = o.scale, args.scale_front = o.scale_front;
    ops::apollo_factors(context, args);
    const float rate = of.lr * std::sqrt(bias_correction(options_.beta2, u.step)) / bias_correction(options_.beta1, u.step);
    ops::scaled_step(context, {of, args.factors, !right, rate * (1 - of.lr * of.weight_decay)});
  }

 private:
  static Tensor flat(const Tensor& t) { return Tensor::vector(t.data, t.dtype, t.count()); }

  void refresh(ops::Context& context, const Update& u, const Tensor& projector, bool right) {
    const LowRankOptions& o = options_.low_rank;
    if (!is_due(context, o, projector, u.step)) return;
    const auto number = static_cast<uint64_t>((u.step - 1) / o.update_gap);
    if (o.random) ops::random_projection(context, {projector, mix_key(options_.seed, u.name_key, 0xA90110, number)});
    else ops::singular_vectors(context, {u.stepped.gradient, projector, right});
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_apollo(const OptimizerOptions& o) { return std::make_unique<Apollo>(o); }
std::unique_ptr<Optimizer> make_galore(const OptimizerOptions& o) { return std::make_unique<Galore<Adam>>(o); }
std::unique_ptr<Optimizer> make_galore_8bit(const OptimizerOptions& o) { return std::make_unique<Galore<Adam8bit>>(o); }

}  // namespace attune::optim
