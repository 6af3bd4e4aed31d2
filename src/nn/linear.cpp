#include "nn/linear.h"

#include "nn/weight_product.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"

namespace attune::nn {
namespace {

Tensor joined(const std::vector<Parameter*>& parts, bool rows) {
  Tensor t = parts[0]->weight;
  if (rows) {
    int64_t n = 0;
    for (const Parameter* p : parts) n += p->weight.rows.count;
    t.rows = Rows::exactly(n);
  } else {
    t.cols = 0;
    for (const Parameter* p : parts) t.cols += p->weight.cols;
    t.stride = t.cols;
  }
  return t;
}

bool any_trainable(const std::vector<Parameter*>& parameters) {
  for (const Parameter* p : parameters)
    if (p->trainable) return true;
  return false;
}

// dW (+)= dyᵀ·x, as one product where the gradients of all parts lie together, otherwise part by part.
void weight_gradients(Tape& tape, const std::vector<Parameter*>& parts, const Tensor& dy, const Tensor& x) {
  if (const GradientTarget whole = tape.gradient_of(parts); whole.tensor.defined()) {
    ops::gemm(tape.context(), {dy, x, whole.tensor, true, false, whole.accumulate});
  } else {
    int64_t column = 0;
    for (Parameter* p : parts) {
      if (p->trainable) {
        const GradientTarget target = tape.gradient_of(*p);
        ops::gemm(tape.context(), {dy.columns(column, p->weight.rows.count), x, target.tensor, true, false, target.accumulate});
      }
      column += p->weight.rows.count;
    }
  }
  for (Parameter* p : parts)
    if (p->trainable) tape.complete_use(*p);
}

void bias_gradients(Tape& tape, const std::vector<Parameter*>& parts, const Tensor& dy) {
  int64_t column = 0;
  for (Parameter* p : parts) {
    if (p->trainable) {
      const GradientTarget target = tape.gradient_of(*p);
      ops::sum_rows(tape.context(), {dy.columns(column, p->weight.cols), target.tensor, target.accumulate, {}});
      tape.complete_use(*p);
    }
    column += p->weight.cols;
  }
}

std::vector<Parameter*> downs(const Linear& layer) {
  std::vector<Parameter*> parts;
  for (const Adapter& a : layer.adapters) parts.push_back(a.a);
  return parts;
}

bool trains_adapters(const Linear& layer) {
  for (const Adapter& a : layer.adapters)
    if (a.a->trainable || a.b->trainable) return true;
  return false;
}

// Columns of `hidden` [N, Σ r] with their adapters.
template <class F>
void for_each_adapter(const Linear& layer, const Tensor& hidden, F&& f) {
  int64_t column = 0;
  for (const Adapter& a : layer.adapters) {
    const int64_t r = a.a->weight.rows.count;
    f(a, hidden.columns(column, r));
    column += r;
  }
}

void scale_hidden(ops::Context& context, const Linear& layer, const Tensor& hidden) {
  for_each_adapter(layer, hidden, [&](const Adapter& a, const Tensor& part) { ops::scale(context, {part, part, a.scale, false}); });
}

// x with some of it dropped, on the arena; x itself without dropout.
Tensor dropped(ops::Context& context, const Tensor& x, AdapterDropout dropout) {
  if (dropout.p == 0) return x;
  dropout.x = x;
  dropout.y = context.arena().matrix(x.rows, x.cols, x.dtype);
  ops::dropout(context, dropout);
  return dropout.y;
}

// dx (+)= dh·A. Dropout needs the product by itself.
void adapter_input_gradient(ops::Context& context, const Linear& layer, const Tensor& dh, const GradientTarget& dx,
                            const AdapterDropout& dropout) {
  if (dropout.p == 0) {
    ops::gemm(context, {dh, layer.down(), dx.tensor, false, false, dx.accumulate});
    return;
  }
  ArenaScope workspace(context.arena());
  const Tensor part = context.arena().matrix(dx.tensor.rows, dx.tensor.cols, dx.tensor.dtype);
  ops::gemm(context, {dh, layer.down(), part, false, false, false});
  AdapterDropout back = dropout;
  back.x = back.y = part;
  ops::dropout(context, back);
  ops::scale(context, {part, dx.tensor, 1.0f, dx.accumulate});
}

void adapters_backward(Tape& tape, Value x, Value y, Value hidden, const Linear& layer, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  // Below the workspace, which it outlives.
  const GradientTarget dx = x->needs_gradient ? tape.gradient_of(x) : GradientTarget{};
  ArenaScope workspace(context.arena());
  const Tensor dh = context.arena().matrix(hidden->value.rows, hidden->value.cols, hidden->value.dtype);
  for_each_adapter(layer, dh, [&](const Adapter& a, const Tensor& part) {
    const Tensor dy = y->gradient.columns(a.out_begin, a.b->weight.rows.count);
    ops::gemm(context, {dy, a.b->weight, part, false, false, false});
  });
  scale_hidden(context, layer, dh);
  if (dx.tensor.defined()) adapter_input_gradient(context, layer, dh, dx, dropout);
  if (any_trainable(downs(layer))) weight_gradients(tape, downs(layer), dh, dropped(context, x->value, dropout));
  for_each_adapter(layer, hidden->value, [&](const Adapter& a, const Tensor& part) {
    if (a.b->trainable) weight_gradients(tape, {a.b}, y->gradient.columns(a.out_begin, a.b->weight.rows.count), part);
  });
}

// y += Σ scale·(x·Aᵀ)·Bᵀ.
void adapters_forward(Tape& tape, Value x, Value y, Value hidden, const Linear& layer, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  {
    ArenaScope workspace(context.arena());
    ops::gemm(context, {dropped(context, x->value, dropout), layer.down(), hidden->value, false, true, false});
  }
  scale_hidden(context, layer, hidden->value);
  for_each_adapter(layer, hidden->value, [&](const Adapter& a, const Tensor& part) {
    ops::gemm(context, {part, a.b->weight, y->value.columns(a.out_begin, a.b->weight.rows.count), false, true, true});
  });
  if (!y->needs_gradient) return;
  for (const Adapter& a : layer.adapters)
    for (Parameter* p : {a.a, a.b}) tape.announce_use(*p);
  if (any_trainable(downs(layer))) tape.keep(x);
  if (trains_adapters(layer)) tape.keep(hidden);
  const Linear* l = &layer;
  tape.record([&tape, x, y, hidden, l, dropout] { adapters_backward(tape, x, y, hidden, *l, dropout); });
}

}  // namespace

int64_t Linear::out() const {
  int64_t n = 0;
  for (const Parameter* p : weights) n += p->weight.rows.count;
  return n;
}

WeightView Linear::weight() const { return {joined(weights, true)}; }
Tensor Linear::bias() const { return joined(biases, false); }

Tensor Linear::down() const { return joined(downs(*this), true); }

int64_t Linear::rank() const {
  int64_t n = 0;
  for (const Adapter& a : adapters) n += a.a->weight.rows.count;
  return n;
}

LinearOutput linear_output(Tape& tape, const Rows& rows, const Linear& layer, DType dtype, Value y) {
  if (!y) y = tape.make(rows, layer.out(), dtype, true);
  return {y, layer.adapters.empty() ? nullptr : tape.make(rows, layer.rank(), dtype, true)};
}

Value linear(Tape& tape, Value x, const Linear& layer, const LinearOutput& into, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  const bool needs = x->needs_gradient || any_trainable(layer.weights) || any_trainable(layer.biases) || trains_adapters(layer);
  Value y = into.y ? into.y : tape.make(x->value.rows, layer.out(), x->value.dtype, needs);
  y->needs_gradient = needs && tape.training();

  multiply_by_weights(context, layer, x->value, y->value);
  if (!layer.biases.empty()) ops::add_bias(context, {y->value, layer.bias()});
  if (needs) {
    for (Parameter* p : layer.weights) tape.announce_use(*p);
    for (Parameter* p : layer.biases) tape.announce_use(*p);
    if (any_trainable(layer.weights)) tape.keep(x);
    const Linear* l = &layer;
    tape.record([&tape, x, y, l] {
      const Tensor dy = y->gradient;
      if (x->needs_gradient) {
        const GradientTarget dx = tape.gradient_of(x);
        multiply_back(tape.context(), *l, dy, dx);
      }
      if (any_trainable(l->weights)) weight_gradients(tape, l->weights, dy, x->value);
      if (any_trainable(l->biases)) bias_gradients(tape, l->biases, dy);
    });
  }
  if (layer.adapters.empty()) return y;
  // No scope of its own: in backward the gradient of x will lie above it, and x is older.
  Value hidden = into.hidden ? into.hidden : tape.make(x->value.rows, layer.rank(), x->value.dtype, true);
  adapters_forward(tape, x, y, hidden, layer, dropout);
  return y;
}

}  // namespace attune::nn
