#include "nn/head.h"

#include <algorithm>

#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"

namespace attune::nn {
namespace {

constexpr int64_t kChunkBytes = 320'000'000;
constexpr int64_t kMinRows = 64;

Tensor part(const Tensor& vector, int64_t begin, int64_t n) { return vector.columns(begin, n); }

// dW (+)= dlogitsᵀ·h and dh = dlogits·W for one chunk.
void chunk_gradients(Tape& tape, Parameter& weight, const Tensor& dlogits, const Tensor& hidden, const Tensor& dhidden) {
  if (dhidden.defined()) ops::gemm(tape.context(), {dlogits, weight.weight, dhidden, false, false, false});
  if (!weight.trainable) return;
  const GradientTarget target = tape.gradient_of(weight);
  ops::gemm(tape.context(), {dlogits, hidden, target.tensor, true, false, target.accumulate});
}

// The chunks of R rows: memory for full chunks of the capacity, work for the real rows.
template <class F>
void for_each_chunk(Rows rows, int64_t chunk, F&& f) {
  for (int64_t first = 0; first < rows.count; first += chunk) {
    const int64_t n = std::min(chunk, rows.count - first);
    f(first, Rows{n, std::min(chunk, rows.capacity)});
  }
}

void add_rows_to_gradient(Tape& tape, Value hidden, const Tensor& dhidden, const Tensor& rows) {
  const GradientTarget dx = tape.gradient_of(hidden);
  if (!dx.accumulate) ops::fill_zero(tape.context(), dx.tensor);
  ops::scatter_rows(tape.context(), {dhidden, rows, dx.tensor, true});
}

}  // namespace

int64_t Head::chunk_rows(int64_t capacity) const {
  const int64_t fitting = kChunkBytes / (4 * weight_.weight.rows.count);
  return std::max<int64_t>(1, std::min(std::max(kMinRows, fitting), capacity));
}

Tensor Head::logits(ops::Context& context, const Tensor& hidden_rows) const {
  const Tensor out = context.arena().matrix(hidden_rows.rows, weight_.weight.rows.count, DType::f32);
  ops::gemm(context, {hidden_rows, weight_.view().dense, out, false, true, false});
  return out;
}

void Head::loss(Tape& tape, Value hidden, const Targets& targets, const LossCall& call) const {
  ops::Context& context = tape.context();
  const DType dtype = hidden->value.dtype;
  const bool gradient = tape.training() && (hidden->needs_gradient || weight_.trainable);
  if (gradient) tape.announce_use(weight_);
  // dh of the labelled rows waits here until backward reaches it.
  Value dhidden = gradient && hidden->needs_gradient ? tape.make(targets.rows, hidden->value.cols, dtype, false) : nullptr;
  if (dhidden) tape.keep(dhidden);
  // Without storage of its own the weight's gradient goes on the stack now, below the chunks.
  if (gradient && weight_.trainable && !weight_.gradient.defined()) {
    weight_.gradient = context.arena().matrix(weight_.weight.rows, weight_.weight.cols, weight_.gradient_dtype);
    weight_.gradient_written = false;
  }
  for_each_chunk(targets.rows, chunk_rows(targets.rows.capacity), [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor labels = part(targets.labels, first, rows.count);
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Tensor z = logits(context, h);
    if (call.hook) call.hook->forward(context, z, first);
    const Tensor lse = context.arena().vector(rows.capacity, DType::f32);
    const Tensor correct = call.correct.defined() ? part(call.correct, first, rows.count) : Tensor{};
    ops::token_logprob(context, {z, labels, part(call.logp, first, rows.count), lse, correct, call.label_smoothing});
    if (!gradient) return;
    const DType gradient_dtype = call.hook ? DType::f32 : dtype;
    const Tensor dz = ops::logit_gradient(context, {z, labels, lse, part(targets.coefficient, first, rows.count), gradient_dtype, call.label_smoothing});
    if (call.hook) call.hook->backward(context, dz, first);
    chunk_gradients(tape, weight_, dz, h, dhidden ? dhidden->value.slice(first, rows) : Tensor{});
  });
  if (!gradient) return;
  const Tensor rows = targets.label_rows;
  Parameter* weight = &weight_;
  tape.record([&tape, hidden, dhidden, rows, weight] {
    if (dhidden) add_rows_to_gradient(tape, hidden, dhidden->value, rows);
    if (weight->trainable) tape.complete_use(*weight);
  });
}

Value Head::logprob(Tape& tape, Value hidden, const Targets& targets, const Tensor& lse) const {
  ops::Context& context = tape.context();
  const bool gradient = hidden->needs_gradient || weight_.trainable;
  Value logp = tape.make(Rows::exactly(1), targets.rows.capacity, DType::f32, gradient);
  const int64_t chunk = chunk_rows(targets.rows.capacity);
  for_each_chunk(targets.rows, chunk, [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, hidden->value.dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Tensor z = logits(context, h);
    ops::token_logprob(context, {z, part(targets.labels, first, rows.count), part(logp->value, first, rows.count),
                                 part(lse, first, rows.count)});
  });
  if (!gradient || !tape.training()) return logp;
  tape.announce_use(weight_);
  tape.keep(hidden);
  tape.keep(logp);
  const Targets t = targets;
  const Head head = *this;  // the closure outlives a temporary
  tape.record([&tape, hidden, logp, t, lse, head, chunk] {
    ops::Context& c = tape.context();
    const DType dtype = hidden->value.dtype;
    const GradientTarget dx = hidden->needs_gradient ? tape.gradient_of(hidden) : GradientTarget{};
    if (dx.tensor.defined() && !dx.accumulate) ops::fill_zero(c, dx.tensor);
    if (head.weight_.trainable) {
      // Reserve before the chunks: a gradient on the stack must outlive them.
      const GradientTarget dw = tape.gradient_of(head.weight_);
      if (!dw.accumulate) ops::fill_zero(c, dw.tensor);
    }
    for_each_chunk(t.rows, chunk, [&](int64_t first, Rows rows) {
      ArenaScope scope(c.arena());
      const Tensor labels = part(t.labels, first, rows.count), places = part(t.label_rows, first, rows.count);
      const Tensor h = c.arena().matrix(rows, hidden->value.cols, dtype);
      ops::gather_rows(c, {hidden->value, places, h});
      const Tensor z = head.logits(c, h);
      const Tensor minus = c.arena().vector(rows.capacity, DType::f32).columns(0, rows.count);
      ops::scale(c, {part(logp->gradient, first, rows.count), minus, -1.0f, false});
      const Tensor dz = ops::logit_gradient(c, {z, labels, part(lse, first, rows.count), minus, dtype});
      const Tensor dh = dx.tensor.defined() ? c.arena().matrix(rows, hidden->value.cols, dtype) : Tensor{};
      chunk_gradients(tape, head.weight_, dz, h, dh);
      if (dh.defined()) ops::scatter_rows(c, {dh, places, dx.tensor, true});
    });
    if (head.weight_.trainable) tape.complete_use(head.weight_);
  });
  return logp;
}

}  // namespace attune::nn
