#include "nn/linear.h"

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

void adapter_forward(Tape& tape, Value x, Value y, const Adapter& adapter) {
  ops::Context& context = tape.context();
  Tape::Scope scope(tape);
  const bool trains = adapter.a->trainable || adapter.b->trainable;
  Value hidden = tape.make(x->value.rows, adapter.a->weight.rows.count, x->value.dtype, trains || x->needs_gradient);
  ops::gemm(context, {x->value, adapter.a->weight, hidden->value, false, true, false});
  ops::scale(context, {hidden->value, hidden->value, adapter.scale, false});
  Tensor out = y->value.columns(adapter.out_begin, adapter.b->weight.rows.count);
  ops::gemm(context, {hidden->value, adapter.b->weight, out, false, true, true});
  if (!trains && !x->needs_gradient) return;
  for (Parameter* p : {adapter.a, adapter.b}) tape.announce_use(*p);
  if (adapter.b->trainable) tape.keep(hidden);
  if (adapter.a->trainable) tape.keep(x);
  const Adapter* slot = &adapter;
  tape.record([&tape, x, y, hidden, slot] {
    ops::Context& c = tape.context();
    const Tensor dy = y->gradient.columns(slot->out_begin, slot->b->weight.rows.count);
    ArenaScope workspace(c.arena());
    const Tensor dh = c.arena().matrix(hidden->value.rows, hidden->value.cols, hidden->value.dtype);
    ops::gemm(c, {dy, slot->b->weight, dh, false, false, false});
    ops::scale(c, {dh, dh, slot->scale, false});
    if (x->needs_gradient) {
      const GradientTarget dx = tape.gradient_of(x);
      ops::gemm(c, {dh, slot->a->weight, dx.tensor, false, false, dx.accumulate});
    }
    if (slot->b->trainable) weight_gradients(tape, {slot->b}, dy, hidden->value);
    if (slot->a->trainable) weight_gradients(tape, {slot->a}, dh, x->value);
  });
}

}  // namespace

int64_t Linear::out() const {
  int64_t n = 0;
  for (const Parameter* p : weights) n += p->weight.rows.count;
  return n;
}

WeightView Linear::weight() const { return {joined(weights, true)}; }
Tensor Linear::bias() const { return joined(biases, false); }

Value linear(Tape& tape, Value x, const Linear& layer, Value into) {
  ops::Context& context = tape.context();
  const bool trains = any_trainable(layer.weights) || any_trainable(layer.biases);
  bool adapts = false;
  for (const Adapter& a : layer.adapters) adapts |= a.a->trainable || a.b->trainable;
  const bool needs = x->needs_gradient || trains || adapts;
  Value y = into ? into : tape.make(x->value.rows, layer.out(), x->value.dtype, needs);
  y->needs_gradient = needs && tape.training();

  ops::gemm(context, {x->value, layer.weight().dense, y->value, false, true, false});
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
        ops::gemm(tape.context(), {dy, l->weight().dense, dx.tensor, false, false, dx.accumulate});
      }
      if (any_trainable(l->weights)) weight_gradients(tape, l->weights, dy, x->value);
      if (any_trainable(l->biases)) bias_gradients(tape, l->biases, dy);
    });
  }
  for (const Adapter& adapter : layer.adapters) adapter_forward(tape, x, y, adapter);
  return y;
}

}  // namespace attune::nn
