// Muon (Jordan et al. 2024), as torch.optim.Muon: the momentum of a hidden matrix, made orthogonal by Newton–Schulz; AdamW
// for everything else.
#include <algorithm>
#include <cmath>

#include "ops/backend.h"
#include "ops/elementwise.h"
#include "optim/rules.h"
#include "util/error.h"

namespace attune::optim {
namespace {

class Muon : public Adam {
 public:
  explicit Muon(const OptimizerOptions& options) : Adam(options) {}
  bool accepts_row_slabs(const nn::Parameter& p) const override { return !is_target(p); }

 protected:
  bool has_targets() const override { return true; }
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    if (!is_target(p)) return Adam::slots(p);
    return {{"momentum_buffer", p.shape, options_.state_dtype}};
  }

  void update(ops::Context& context, const Update& u) override {
    if (!is_target(u.parameter)) return Adam::update(context, u);
    const ops::Stepped& of = u.stepped;
    const Rows rows = Rows::exactly(of.parameter.rows.count);
    const int64_t cols = of.parameter.cols;
    const DType work = u.parameter.weight.dtype == DType::f32 ? DType::f32 : DType::bf16;
    ArenaScope scope(context.arena());
    Tensor x = context.arena().matrix(rows, cols, work), next = context.arena().matrix(rows, cols, work);
    {
      // With momentum b ← μb + g instead of PyTorch's μb + (1−μ)g the buffer is 1/(1−μ) as large; x is brought to norm 1.
      ArenaScope inner(context.arena());
      const Tensor sum = context.arena().matrix(rows, cols, DType::f32);
      ops::fill_zero(context, sum);
      ops::Stepped momentum;
      momentum.parameter = sum, momentum.gradient = of.gradient;
      momentum.grad_scale = of.grad_scale, momentum.lr = -1;
      momentum.rounding_key = of.rounding_key;
      ops::sgd(context, {momentum, u.states[0], options_.muon.momentum, options_.muon.nesterov, false});
      const double norm = std::sqrt(ops::squared_norm(context, sum)) * (1 - options_.muon.momentum);
      const double unit = (1 - options_.muon.momentum) / std::max(norm, static_cast<double>(options_.muon.eps));
      ops::scale(context, {sum, x, static_cast<float>(unit), false});
    }
    orthogonalise(context, x, next);
    apply(context, of, x, of.lr * rate_of(u.parameter.shape));
  }

 private:
  // X ← aX + (bA + cA²)X with A = XXᵀ; for a tall X the same with XᵀX from the right.
  void orthogonalise(ops::Context& context, Tensor& x, Tensor& next) {
    const auto [a, b, c] = options_.muon.coefficients;
    const bool tall = x.rows.count > x.cols;
    const int64_t small = std::min(x.rows.count, x.cols);
    const auto square = [&] { return context.arena().matrix(Rows::exactly(small), small, x.dtype); };
    const Tensor gram = square(), squared = square(), polynomial = square();
    for (int64_t i = 0; i < options_.muon.steps; ++i) {
      ops::gemm(context, {x, x, gram, tall, !tall, false});
      ops::gemm(context, {gram, gram, squared, false, false, false});
      ops::scale(context, {gram, polynomial, b, false});
      ops::scale(context, {squared, polynomial, c, true});
      ops::scale(context, {x, next, a, false});
      if (tall) ops::gemm(context, {x, polynomial, next, false, false, true});
      else ops::gemm(context, {polynomial, x, next, false, false, true});
      std::swap(x, next);
    }
  }

  float rate_of(const std::vector<int64_t>& shape) const {
    const auto rows = static_cast<double>(shape[0]), cols = static_cast<double>(shape[1]);
    if (options_.muon.adjust_lr == "match_rms_adamw") return static_cast<float>(0.2 * std::sqrt(std::max(rows, cols)));
    if (options_.muon.adjust_lr == "spectral_unclamped") return static_cast<float>(std::sqrt(rows / cols));
    return static_cast<float>(std::sqrt(std::max(1.0, rows / cols)));
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& o) { return std::make_unique<Muon>(o); }

}  // namespace attune::optim
