#include "nn/linear.h"

#include "nn/weight_product.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "ops/magnitude.h"

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
    if (a.a->trainable || a.b->trainable || (a.magnitude && a.magnitude->trainable)) return true;
  return false;
}

// The columns of y, and the weight of the layer, that an adapter changes.
Tensor part_of(const Tensor& y, const Adapter& a) { return y.columns(a.out_begin, a.out_size()); }
std::span<Parameter* const> weight_of(const Linear& layer, const Adapter& a) {
  size_t i = 0;
  for (int64_t begin = 0; begin < a.out_begin; ++i) begin += layer.weights[i]->weight.rows.count;
  return std::span(layer.weights).subspan(i, 1);
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

// The A's that lie together as one matrix, with their columns of `hidden`.
template <class F>
void for_each_down(const Linear& layer, const Tensor& hidden, F&& f) {
  int64_t column = 0;
  for (size_t i = 0; i < layer.adapters.size();) {
    Tensor a = layer.adapters[i].a->weight;
    int64_t r = a.rows.count;
    for (++i; i < layer.adapters.size() && layer.adapters[i].a->weight.data == static_cast<char*>(a.data) + a.bytes(); ++i) {
      r += layer.adapters[i].a->weight.rows.count;
      a.rows = Rows::exactly(r);
    }
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

// dx (+)= dh·A. Dropout needs the product by itself; with magnitudes what W reads of d instead of x, `rest` = du − dy, takes
// the same way back.
void adapter_input_gradient(ops::Context& context, const Linear& layer, const Tensor& dh, const Tensor& rest, const GradientTarget& dx,
                            const AdapterDropout& dropout) {
  const auto product = [&](const Tensor& into, bool accumulate) {
    for_each_down(layer, dh, [&](const Tensor& a, const Tensor& part) {
      ops::gemm(context, {part, a, into, false, false, accumulate});
      accumulate = true;
    });
  };
  if (dropout.p == 0) return product(dx.tensor, dx.accumulate);
  ArenaScope workspace(context.arena());
  const Tensor part = context.arena().matrix(dx.tensor.rows, dx.tensor.cols, dx.tensor.dtype);
  product(part, false);
  if (layer.has_magnitudes())
    for (const Adapter& a : layer.adapters) multiply_back(context, weight_of(layer, a), part_of(rest, a), {part, true});
  AdapterDropout back = dropout;
  back.x = back.y = part;
  ops::dropout(context, back);
  ops::scale(context, {part, dx.tensor, 1.0f, dx.accumulate});
}

void adapters_backward(Tape& tape, Value x, const LinearOutput& o, const Linear& layer, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  const Tensor du = o.sum->gradient;
  // Below the workspace, which it outlives.
  const GradientTarget dx = x->needs_gradient ? tape.gradient_of(x) : GradientTarget{};
  ArenaScope workspace(context.arena());
  const Tensor dh = context.arena().matrix(o.hidden->value.rows, o.hidden->value.cols, o.hidden->value.dtype);
  for_each_adapter(layer, dh, [&](const Adapter& a, const Tensor& part) {
    ops::gemm(context, {part_of(du, a), a.b->weight, part, false, false, false});
  });
  scale_hidden(context, layer, dh);
  for_each_adapter(layer, o.hidden->value, [&](const Adapter& a, const Tensor& part) {
    if (a.b->trainable) weight_gradients(tape, {a.b}, part_of(du, a), part);
  });
  if (dx.tensor.defined()) {
    if (layer.has_magnitudes() && dropout.p > 0) ops::scale(context, {o.y->gradient, du, -1.0f, true});  // nobody reads du any more
    adapter_input_gradient(context, layer, dh, du, dx, dropout);
  }
  if (any_trainable(downs(layer))) weight_gradients(tape, downs(layer), dh, dropped(context, x->value, dropout));
}

// What magnitudes multiply begins as W·x, which stands in y; with dropout as W·d, which y then has none of.
void begin_sum(ops::Context& context, const Linear& layer, const Tensor& read, const LinearOutput& o, float p) {
  if (o.sum == o.y) return;
  for (const Adapter& a : layer.adapters) {
    const Tensor y = part_of(o.y->value, a), sum = part_of(o.sum->value, a);
    if (p > 0) multiply_by_weights(context, weight_of(layer, a), read, sum);
    if (p > 0) ops::scale(context, {sum, y, -1.0f, true});
    else ops::scale(context, {y, sum, 1.0f, false});
  }
}

void magnitudes_forward(ops::Context& context, const Linear& layer, const LinearOutput& o, float p) {
  for (const Adapter& a : layer.adapters) {
    const Tensor norms = part_of(o.norms->value, a);
    adapted_norms(context, *weight_of(layer, a)[0], a, norms);
    ops::magnitude_forward(context, {part_of(o.sum->value, a), a.magnitude->stepped(), norms, part_of(o.y->value, a), p > 0, {}});
  }
}

// du, and with it what the rest of the way back begins from. In place where nobody else reads dy.
void magnitudes_backward(Tape& tape, const LinearOutput& o, const Linear& layer, float p) {
  ops::Context& context = tape.context();
  const Tensor dy = o.y->gradient;
  if (any_trainable(layer.biases)) bias_gradients(tape, layer.biases, dy);
  o.sum->gradient = dy;
  if (p > 0 || o.y->gradient_borrowed) {
    o.sum->gradient = context.arena().matrix(dy.rows, dy.cols, dy.dtype);
    ops::scale(context, {dy, o.sum->gradient, 1.0f, false});
  }
  for (const Adapter& a : layer.adapters) {
    ArenaScope workspace(context.arena());
    const GradientTarget dm = a.magnitude->trainable ? tape.gradient_of(*a.magnitude) : GradientTarget{};
    const Tensor du = part_of(o.sum->gradient, a);
    ops::magnitude_backward(context, {du, part_of(o.sum->value, a), a.magnitude->stepped(), part_of(o.norms->value, a), du, dm.tensor, dm.accumulate});
    if (a.magnitude->trainable) tape.complete_use(*a.magnitude);
  }
}

// y += Σ scale·(x·Aᵀ)·Bᵀ, and magnitudes where there are any.
void adapters_forward(Tape& tape, Value x, const LinearOutput& o, const Linear& layer, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  {
    ArenaScope workspace(context.arena());
    const Tensor read = dropped(context, x->value, dropout);
    for_each_down(layer, o.hidden->value, [&](const Tensor& a, const Tensor& part) { ops::gemm(context, {read, a, part, false, true, false}); });
    begin_sum(context, layer, read, o, dropout.p);
  }
  scale_hidden(context, layer, o.hidden->value);
  for_each_adapter(layer, o.hidden->value, [&](const Adapter& a, const Tensor& part) {
    ops::gemm(context, {part, a.b->weight, part_of(o.sum->value, a), false, true, true});
  });
  if (layer.has_magnitudes()) magnitudes_forward(context, layer, o, dropout.p);
  if (!o.y->needs_gradient) return;
  for (const Adapter& a : layer.adapters)
    for (Parameter* p : {a.a, a.b, a.magnitude})
      if (p) tape.announce_use(*p);
  if (any_trainable(downs(layer))) tape.keep(x);
  if (trains_adapters(layer)) tape.keep(o.hidden);
  const Linear* l = &layer;
  tape.record([&tape, x, o, l, dropout] { adapters_backward(tape, x, o, *l, dropout); });
  if (!layer.has_magnitudes()) return;
  tape.keep(o.norms);
  tape.keep(o.sum);
  const float p = dropout.p;
  tape.record([&tape, o, l, p] { magnitudes_backward(tape, o, *l, p); });
}

}  // namespace

int64_t Linear::out() const {
  int64_t n = 0;
  for (const Parameter* p : weights) n += p->weight.rows.count;
  return n;
}

WeightView Linear::weight() const { return {joined(weights, true)}; }
Tensor Linear::bias() const { return joined(biases, false); }

int64_t Linear::rank() const {
  int64_t n = 0;
  for (const Adapter& a : adapters) n += a.a->weight.rows.count;
  return n;
}

LinearOutput linear_output(Tape& tape, const Rows& rows, const Linear& layer, DType dtype, Value y) {
  LinearOutput o;
  o.y = o.sum = y ? y : tape.make(rows, layer.out(), dtype, true);
  if (!layer.adapters.empty()) o.hidden = tape.make(rows, layer.rank(), dtype, true);
  if (!layer.has_magnitudes()) return o;
  if (tape.training()) o.sum = tape.make(rows, layer.out(), dtype, true);
  o.norms = tape.make(Rows::exactly(1), layer.out(), layer.adapters[0].magnitude->stepped().dtype, false);
  return o;
}

Value linear(Tape& tape, Value x, const Linear& layer, const LinearOutput& into, const AdapterDropout& dropout) {
  ops::Context& context = tape.context();
  const bool needs = x->needs_gradient || any_trainable(layer.weights) || any_trainable(layer.biases) || trains_adapters(layer);
  // No scope of its own: in backward the gradient of x will lie above what is made here, and x is older.
  const LinearOutput o = into.sum ? into : linear_output(tape, x->value.rows, layer, x->value.dtype, into.y);
  Value y = o.y;
  y->needs_gradient = needs && tape.training();

  multiply_by_weights(context, layer.weights, x->value, y->value);
  const bool magnitudes = layer.has_magnitudes();  // then the bias comes behind them
  if (!layer.biases.empty() && !magnitudes) ops::add_bias(context, {y->value, layer.bias()});
  if (needs) {
    for (Parameter* p : layer.weights) tape.announce_use(*p);
    for (Parameter* p : layer.biases) tape.announce_use(*p);
    if (any_trainable(layer.weights)) tape.keep(x);
    const Linear* l = &layer;
    // With dropout W reads x as it is, and what it reads beyond that is the adapters' to take back.
    Value from = magnitudes && dropout.p == 0 ? o.sum : y;
    tape.record([&tape, x, from, l] {
      const Tensor dy = from->gradient;
      if (x->needs_gradient) {
        const GradientTarget dx = tape.gradient_of(x);
        multiply_back(tape.context(), l->weights, dy, dx);
      }
      if (any_trainable(l->weights)) weight_gradients(tape, l->weights, dy, x->value);
      if (any_trainable(l->biases) && !l->has_magnitudes()) bias_gradients(tape, l->biases, dy);
    });
  }
  if (!layer.adapters.empty()) adapters_forward(tape, x, o, layer, dropout);
  if (!layer.biases.empty() && magnitudes) ops::add_bias(context, {y->value, layer.bias()});
  return y;
}

}  // namespace attune::nn
