#include "nn/head.h"

#include <algorithm>

#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "ops/logit_transforms.h"

namespace attune::nn {
namespace {

constexpr int64_t kChunkBytes = 320'000'000;
constexpr int64_t kMinRows = 64;

Tensor part(const Tensor& vector, int64_t begin, int64_t n) { return vector.columns(begin, n); }

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

Head::Head(Parameter& weight, const HeadOptions& options) : weight_(weight), options_(options) {}

Tensor Head::inverse_norms(ops::Context& context) const {
  if (!options_.normalise_rows) return {};
  const Tensor out = context.arena().vector(weight_.weight.rows.count, DType::f32);
  ops::inverse_row_norms(context, {weight_.weight, out});
  return out;
}

Head::Chunk Head::chunk(ops::Context& context, const Tensor& hidden_rows, const Tensor& inverse_norms, bool backward) const {
  Chunk c;
  c.logits = context.arena().matrix(hidden_rows.rows, weight_.weight.rows.count, DType::f32);
  ops::gemm(context, {hidden_rows, weight_.view().dense, c.logits, false, true, false});
  if (inverse_norms.defined()) ops::scale_columns(context, {c.logits, inverse_norms});
  if (options_.softcap > 0) {
    if (backward) c.capped = context.arena().matrix(hidden_rows.rows, weight_.weight.rows.count, DType::f32);
    ops::softcap(context, {c.logits, options_.softcap, c.capped});
  }
  return c;
}

// dh = dlogits·W and dW (+)= dlogitsᵀ·h. With normalised rows dlogits are scaled by 1/‖w‖ first; the rest of their way
// back is finish_weight_gradient, once all chunks are in.
void Head::chunk_gradients(Tape& tape, const Chunk& chunk, const Tensor& inverse_norms, const Tensor& dlogits,
                           const Tensor& hidden_rows, const Tensor& dhidden) const {
  ops::Context& context = tape.context();
  if (chunk.capped.defined()) ops::softcap_backward(context, {chunk.capped, dlogits, options_.softcap});
  if (inverse_norms.defined()) ops::scale_columns(context, {dlogits, inverse_norms});
  if (dhidden.defined()) ops::gemm(context, {dlogits, weight_.weight, dhidden, false, false, false});
  if (!weight_.trainable) return;
  const GradientTarget target = tape.gradient_of(weight_);
  ops::gemm(context, {dlogits, hidden_rows, target.tensor, true, false, target.accumulate});
}

// A projection, so gradients of earlier micro-batches that are in the sum already do not mind.
void Head::finish_weight_gradient(Tape& tape, const Tensor& inverse_norms) const {
  if (!inverse_norms.defined() || !weight_.trainable || !weight_.gradient_written) return;
  ops::project_rows(tape.context(), {weight_.weight, inverse_norms, tape.gradient_of(weight_).tensor});
}

int64_t Head::chunk_rows(int64_t capacity) const {
  const int64_t fitting = kChunkBytes / ((options_.softcap > 0 ? 8 : 4) * weight_.weight.rows.count);
  return std::max<int64_t>(1, std::min(std::max(kMinRows, fitting), capacity));
}

Tensor Head::logits(ops::Context& context, const Tensor& hidden_rows) const {
  // The logits stay, the norms behind them go: room for both is taken in this order.
  const Tensor out = context.arena().matrix(hidden_rows.rows, weight_.weight.rows.count, DType::f32);
  ArenaScope scope(context.arena());
  ops::gemm(context, {hidden_rows, weight_.view().dense, out, false, true, false});
  if (const Tensor inverse = inverse_norms(context); inverse.defined()) ops::scale_columns(context, {out, inverse});
  if (options_.softcap > 0) ops::softcap(context, {out, options_.softcap, {}});
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
  ArenaScope norms(context.arena());
  const Tensor inverse = inverse_norms(context);
  const float z_loss = tape.training() ? options_.z_loss : 0.0f;
  for_each_chunk(targets.rows, chunk_rows(targets.rows.capacity), [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor labels = part(targets.labels, first, rows.count);
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Chunk c = chunk(context, h, inverse, gradient);
    const Tensor& z = c.logits;
    if (call.hook) call.hook->forward(context, z, first);
    const Tensor lse = context.arena().vector(rows.capacity, DType::f32);
    const Tensor correct = call.correct.defined() ? part(call.correct, first, rows.count) : Tensor{};
    ops::token_logprob(context, {z, labels, part(call.logp, first, rows.count), lse, correct, call.label_smoothing, z_loss});
    if (!gradient) return;
    const DType gradient_dtype = call.hook ? DType::f32 : dtype;
    const Tensor dz = ops::logit_gradient(context, {z, labels, lse, part(targets.coefficient, first, rows.count), gradient_dtype,
                                                    call.label_smoothing, z_loss});
    if (call.hook) call.hook->backward(context, dz, first);
    chunk_gradients(tape, c, inverse, dz, h, dhidden ? dhidden->value.slice(first, rows) : Tensor{});
  });
  if (!gradient) return;
  finish_weight_gradient(tape, inverse);
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
  const int64_t size = chunk_rows(targets.rows.capacity);
  ArenaScope norms(context.arena());
  const Tensor inverse = inverse_norms(context);
  for_each_chunk(targets.rows, size, [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, hidden->value.dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Chunk c = chunk(context, h, inverse, false);
    ops::token_logprob(context, {c.logits, part(targets.labels, first, rows.count), part(logp->value, first, rows.count),
                                 part(lse, first, rows.count)});
  });
  if (!gradient || !tape.training()) return logp;
  tape.announce_use(weight_);
  tape.keep(hidden);
  tape.keep(logp);
  const Targets t = targets;
  const Head head = *this;  // the closure outlives a temporary
  tape.record([&tape, hidden, logp, t, lse, head, size] {
    ops::Context& c = tape.context();
    const DType dtype = hidden->value.dtype;
    const GradientTarget dx = hidden->needs_gradient ? tape.gradient_of(hidden) : GradientTarget{};
    if (dx.tensor.defined() && !dx.accumulate) ops::fill_zero(c, dx.tensor);
    if (head.weight_.trainable) {
      // Reserve before the chunks: a gradient on the stack must outlive them.
      const GradientTarget dw = tape.gradient_of(head.weight_);
      if (!dw.accumulate) ops::fill_zero(c, dw.tensor);
    }
    ArenaScope norms(c.arena());
    const Tensor inverse = head.inverse_norms(c);
    for_each_chunk(t.rows, size, [&](int64_t first, Rows rows) {
      ArenaScope scope(c.arena());
      const Tensor labels = part(t.labels, first, rows.count), places = part(t.label_rows, first, rows.count);
      const Tensor h = c.arena().matrix(rows, hidden->value.cols, dtype);
      ops::gather_rows(c, {hidden->value, places, h});
      const Chunk z = head.chunk(c, h, inverse, true);
      const Tensor minus = c.arena().vector(rows.capacity, DType::f32).columns(0, rows.count);
      ops::scale(c, {part(logp->gradient, first, rows.count), minus, -1.0f, false});
      const Tensor dz = ops::logit_gradient(c, {z.logits, labels, part(lse, first, rows.count), minus, dtype});
      const Tensor dh = dx.tensor.defined() ? c.arena().matrix(rows, hidden->value.cols, dtype) : Tensor{};
      head.chunk_gradients(tape, z, inverse, dz, h, dh);
      if (dh.defined()) ops::scatter_rows(c, {dh, places, dx.tensor, true});
    });
    head.finish_weight_gradient(tape, inverse);
    if (head.weight_.trainable) tape.complete_use(head.weight_);
  });
  return logp;
}

}  // namespace attune::nn
