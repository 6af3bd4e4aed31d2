#include "optim/optimizer.h"

#include <cmath>

#include "ops/optimizer.h"
#include "util/error.h"

namespace attune::optim {
namespace {

Tensor bf16_copy(nn::Parameter& p) { return p.master.defined() ? p.weight : Tensor{}; }

class AdamW : public Optimizer {
 public:
  explicit AdamW(const OptimizerOptions& options) : options_(options) {}

  uint64_t allocate(Arena::Kind kind, const nn::ParameterStore& parameters) override {
    uint64_t bytes = 0;
    for (const auto& p : parameters.all())
      if (p->trainable) bytes += 2 * ((static_cast<uint64_t>(p->count()) * 4 + 63) / 64 * 64);
    memory_ = std::make_unique<Arena>(kind, bytes);  // fresh pages are zero
    for (const auto& p : parameters.all()) {
      if (!p->trainable) continue;
      moments_[p.get()] = {memory_->matrix(p->weight.rows, p->weight.cols, DType::f32),
                           memory_->matrix(p->weight.rows, p->weight.cols, DType::f32)};
      order_.push_back(p.get());
    }
    return bytes;
  }

  void step(ops::Context& context, nn::Parameter& p, int64_t step, float lr, float grad_scale) override {
    ops::AdamW args;
    args.parameter = p.stepped();
    args.copy = bf16_copy(p);
    args.gradient = p.gradient;
    const Moments& m = moments_.at(&p);
    args.m = m.first;
    args.v = m.second;
    args.grad_scale = grad_scale;
    args.lr = lr;
    args.beta1 = options_.beta1;
    args.beta2 = options_.beta2;
    args.eps = options_.eps;
    args.weight_decay = p.is_vector() ? 0 : options_.weight_decay;
    args.correction1 = static_cast<float>(1 - std::pow(static_cast<double>(options_.beta1), static_cast<double>(step)));
    args.correction2 = static_cast<float>(1 - std::pow(static_cast<double>(options_.beta2), static_cast<double>(step)));
    ops::adamw(context, args);
  }

  std::vector<StateTensor> states() const override {
    std::vector<StateTensor> out;
    for (const nn::Parameter* p : order_) {
      out.push_back({p->name + ".exp_avg", p->shape, moments_.at(p).first});
      out.push_back({p->name + ".exp_avg_sq", p->shape, moments_.at(p).second});
    }
    return out;
  }

 private:
  struct Moments {
    Tensor first, second;
  };
  OptimizerOptions options_;
  std::unique_ptr<Arena> memory_;
  std::map<const nn::Parameter*, Moments> moments_;
  std::vector<const nn::Parameter*> order_;
};

class Sgd : public Optimizer {
 public:
  explicit Sgd(const OptimizerOptions& options) : options_(options) {}
  uint64_t allocate(Arena::Kind, const nn::ParameterStore&) override { return 0; }
  void step(ops::Context& context, nn::Parameter& p, int64_t, float lr, float grad_scale) override {
    ops::sgd(context, {p.stepped(), bf16_copy(p), p.gradient, grad_scale, lr, p.is_vector() ? 0 : options_.weight_decay});
  }
  std::vector<StateTensor> states() const override { return {}; }

 private:
  OptimizerOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> Optimizer::create(const OptimizerOptions& options) {
  if (options.name == "adamw") return std::make_unique<AdamW>(options);
  if (options.name == "sgd") return std::make_unique<Sgd>(options);
  refuse("optim: \"{}\" is not supported; known are adamw_torch (adamw) and sgd", options.name);
}

}  // namespace attune::optim
