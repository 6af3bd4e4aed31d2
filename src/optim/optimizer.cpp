#include "optim/optimizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "optim/rules.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/pattern.h"
#include "util/rng.h"

namespace attune::optim {
namespace {

class Sgd : public Optimizer {
 public:
  explicit Sgd(const OptimizerOptions& options) : Optimizer(options) {
    if (options.nesterov && options.momentum <= 0) refuse("optim: nesterov needs a momentum above 0");
  }

 protected:
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    if (options_.momentum == 0) return {};
    return {{"momentum_buffer", p.shape, options_.state_dtype}};
  }
  void update(ops::Context& context, const Update& u) override {
    ops::sgd(context, {u.stepped, u.states.empty() ? Tensor{} : u.states[0], options_.momentum, options_.nesterov, u.step == 1});
  }
  bool decoupled() const override { return false; }
};

class Lion : public Optimizer {
 public:
  explicit Lion(const OptimizerOptions& options) : Optimizer(options) {}

 protected:
  std::vector<Slot> slots(const nn::Parameter& p) const override { return {{"exp_avg", p.shape, options_.state_dtype}}; }
  void update(ops::Context& context, const Update& u) override {
    ops::lion(context, {u.stepped, u.states[0], options_.beta1, options_.beta2});
  }
};

class Adafactor : public Optimizer {
 public:
  Adafactor(const OptimizerOptions& options, bool scale_parameter) : Optimizer(options), scale_parameter_(scale_parameter) {}
  bool accepts_row_slabs(const nn::Parameter&) const override { return false; }  // column means, norm of the update

 protected:
  // Row and column means are a few numbers: they stay fp32.
  std::vector<Slot> slots(const nn::Parameter& p) const override {
    if (p.is_vector()) return {{"exp_avg_sq", p.shape, DType::f32}};
    return {{"exp_avg_sq_row", {p.shape[0]}, DType::f32}, {"exp_avg_sq_col", {p.shape[1]}, DType::f32}};
  }
  void update(ops::Context& context, const Update& u) override {
    ops::Adafactor args;
    args.of = u.stepped;
    if (u.states.size() == 1) args.v = u.states[0];
    else args.rows = u.states[0], args.cols = u.states[1];
    args.beta = static_cast<float>(1 - std::pow(static_cast<double>(u.step), static_cast<double>(options_.decay_rate)));
    args.clip_threshold = options_.clip_threshold;
    args.scale_parameter = scale_parameter_;
    ops::adafactor(context, args);
  }

 private:
  bool scale_parameter_;
};

const std::map<std::string, std::function<std::unique_ptr<Optimizer>(const OptimizerOptions&)>>& registry() {
  static const std::map<std::string, std::function<std::unique_ptr<Optimizer>(const OptimizerOptions&)>> all{
      {"adamw", [](const OptimizerOptions& o) { return std::make_unique<Adam>(o); }},
      {"adam", [](const OptimizerOptions& o) { return std::make_unique<Adam>(o, false); }},
      {"adamw_8bit", [](const OptimizerOptions& o) { return std::make_unique<Adam8bit>(o); }},
      {"sgd", [](const OptimizerOptions& o) { return std::make_unique<Sgd>(o); }},
      // Without momentum it is the same whether decay goes into the gradient.
      {"lomo", [](const OptimizerOptions& o) { return std::make_unique<Sgd>(o); }},
      {"lion", [](const OptimizerOptions& o) { return std::make_unique<Lion>(o); }},
      {"lion_8bit", make_lion_8bit},
      {"adafactor", [](const OptimizerOptions& o) { return std::make_unique<Adafactor>(o, o.scale_parameter); }},
      {"adalomo", [](const OptimizerOptions& o) { return std::make_unique<Adafactor>(o, true); }},
      {"apollo", make_apollo},
      {"galore", make_galore},
      {"galore_8bit", make_galore_8bit},
      {"muon", make_muon}};
  return all;
}

}  // namespace

const std::vector<std::string>& Optimizer::names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (const auto& [name, make] : registry()) names.push_back(name);
    return names;
  }();
  return all;
}

std::unique_ptr<Optimizer> Optimizer::create(const OptimizerOptions& options) {
  const auto it = registry().find(options.name);
  if (it == registry().end()) refuse("optim: \"{}\" is not supported; known are {}", options.name, fmt::join(names(), ", "));
  return it->second(options);
}

void Optimizer::find_targets(const nn::ParameterStore& parameters) {
  std::vector<Pattern> patterns;
  for (const std::string& t : options_.targets) patterns.emplace_back(t, "optim_target_modules");
  std::vector<bool> used(patterns.size());
  for (const auto& p : parameters.all()) {
    if (!p->is_stepped() || p->is_vector() || p->is_table) continue;
    bool found = patterns.empty();
    for (size_t i = 0; i < patterns.size(); ++i)
      if (patterns[i].found_in(p->name)) used[i] = found = true;
    if (found) targets_.insert(p.get());
  }
  for (size_t i = 0; i < patterns.size(); ++i)
    if (!used[i])
      refuse("optim_target_modules: \"{}\" finds no trained matrix of a layer (embeddings, lm_head, norms and biases are always AdamW's)",
             options_.targets[i]);
}

uint64_t Optimizer::allocate(Place place, const nn::ParameterStore& parameters) {
  if (has_targets()) find_targets(parameters);
  uint64_t bytes = 0;
  for (const auto& p : parameters.all()) {
    if (!p->is_stepped()) continue;
    Owned owned{slots(*p), {}, {}, hash64(p->name)};
    for (const Slot& s : owned.slots) {
      uint64_t count = 1;
      for (int64_t n : s.shape) count *= static_cast<uint64_t>(n);
      bytes += (count * size_of(s.dtype) + 63) / 64 * 64;
    }
    owned_.emplace(p.get(), std::move(owned));
    order_.push_back(p.get());
  }
  memory_ = std::make_unique<Arena>(place, bytes);
  memory_->clear("optimizer states");
  for (const nn::Parameter* p : order_)
    for (Owned& o = owned_.at(p); const Slot& s : o.slots)
      o.tensors.push_back(s.shape.size() == 2 ? memory_->matrix(Rows::exactly(s.shape[0]), s.shape[1], s.dtype)
                                              : memory_->vector(s.shape[0], s.dtype));
  return bytes;
}

ops::Stepped Optimizer::stepped(nn::Parameter& p, int64_t step, float learning_rate, float grad_scale) const {
  ops::Stepped of;
  of.parameter = p.stepped();
  if (p.master.defined()) of.copy = p.weight;
  of.gradient = p.gradient;
  of.anchor = p.anchor;
  of.grad_scale = grad_scale;
  of.lr = learning_rate * p.lr_scale;
  of.weight_decay = p.is_vector() ? 0 : options_.weight_decay;
  of.anchor_decay = options_.anchor_decay;
  of.decoupled = decoupled();
  of.rounding_key = mix_key(options_.seed, static_cast<uint64_t>(step), owned_.at(&p).key);
  return of;
}

void Optimizer::step(ops::Context& context, nn::Parameter& p, int64_t step, float learning_rate, float grad_scale) {
  const Owned& owned = owned_.at(&p);
  update(context, {p, stepped(p, step, learning_rate, grad_scale), owned.tensors, step, owned.key});
}

void Optimizer::step_rows(ops::Context& context, nn::Parameter& p, int64_t first_row, const Tensor& gradient, int64_t step,
                          float learning_rate, float grad_scale) {
  const int64_t rows = gradient.rows.count;
  if (!accepts_row_slabs(p) || gradient.cols != p.weight.cols || first_row < 0 || first_row + rows > p.weight.rows.count)
    fail("internal error: rows {} to {} of {} cannot be stepped alone", first_row, first_row + rows, p.name);
  ops::Stepped of = stepped(p, step, learning_rate, grad_scale).rows(first_row, rows);
  of.gradient = gradient;
  Owned& owned = owned_.at(&p);
  owned.of_rows.clear();
  for (const Tensor& state : owned.tensors) owned.of_rows.push_back(state_rows(p, state, first_row, rows));
  update(context, {p, of, owned.of_rows, step, owned.key});
}

std::vector<StateTensor> Optimizer::states() const {
  std::vector<StateTensor> out;
  for (const nn::Parameter* p : order_) {
    const Owned& o = owned_.at(p);
    for (size_t i = 0; i < o.slots.size(); ++i) out.push_back({p->name + "." + o.slots[i].kind, o.slots[i].shape, o.tensors[i]});
  }
  return out;
}

void Optimizer::hand_over(const nn::Parameter& from, const nn::Parameter& to) {
  auto node = owned_.extract(&from);
  node.key() = &to;
  node.mapped().key = hash64(to.name);
  for (const Tensor& t : node.mapped().tensors) memory_->device().zero(t.data, t.bytes());
  owned_.insert(std::move(node));
  std::replace(order_.begin(), order_.end(), &from, &to);
  if (targets_.erase(&from)) targets_.insert(&to);
}

void apply_groups(const std::vector<LrGroup>& groups, nn::ParameterStore& parameters) {
  std::vector<Pattern> patterns;
  for (const LrGroup& g : groups) patterns.emplace_back(g.pattern, "learning_rate_groups");
  std::vector<bool> used(groups.size());
  for (const auto& p : parameters.all()) {
    bool taken = false;
    for (size_t i = 0; i < groups.size(); ++i) {
      if (!p->learns() || !patterns[i].found_in(p->name)) continue;
      used[i] = true;
      if (!taken) p->lr_scale = static_cast<float>(groups[i].scale);
      taken = true;
    }
  }
  for (size_t i = 0; i < groups.size(); ++i)
    if (!used[i])
      refuse("learning_rate_groups: \"{}\" finds no trained parameter (a tied lm_head is model.embed_tokens)", groups[i].pattern);
}

}  // namespace attune::optim
