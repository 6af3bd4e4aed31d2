#include "nn/head.h"

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "ops/logit_transforms.h"
#include "ops/optimizer.h"

namespace attune::nn {
namespace {

constexpr int64_t kMinRows = 64;
constexpr int64_t kWordStep = 256;  // slabs begin where any optimizer's blocks do

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

Head::Words Head::all_words(ops::Context& context) const {
  Words words{0, weight_.view().dense, {}};
  if (options_.normalise_rows) {
    words.inverse_norms = context.arena().vector(words.weight.rows.count, DType::f32);
    ops::inverse_row_norms(context, {words.weight, words.inverse_norms});
  }
  return words;
}

Tensor Head::adapt(ops::Context& context, const Tensor& hidden_rows, const Words& words, const Tensor& logits) const {
  if (!adapter_) return {};
  const Tensor low = context.arena().matrix(hidden_rows.rows, adapter_->a->weight.rows.count, hidden_rows.dtype);
  ops::gemm(context, {hidden_rows, adapter_->a->weight, low, false, true, false});
  ops::scale(context, {low, low, adapter_->scale, false});
  ops::gemm(context, {low, adapter_->b->weight.slice(words.first, words.weight.rows.count), logits, false, true, true});
  return low;
}

// The adapter's part of chunk_gradients, behind that of the weight.
void Head::adapter_gradients(Tape& tape, const Tensor& low, const Tensor& dlogits, const Tensor& hidden_rows, const Tensor& dhidden) const {
  ops::Context& context = tape.context();
  const Adapter& a = *adapter_;
  ArenaScope workspace(context.arena());
  const Tensor dlow = context.arena().matrix(low.rows, low.cols, low.dtype);
  ops::gemm(context, {dlogits, a.b->weight, dlow, false, false, false});
  ops::scale(context, {dlow, dlow, a.scale, false});
  if (dhidden.defined()) ops::gemm(context, {dlow, a.a->weight, dhidden, false, false, true});
  for (const auto& [p, dy, x] : {std::tuple(a.a, dlow, hidden_rows), std::tuple(a.b, dlogits, low)}) {
    if (!p->trainable) continue;
    const GradientTarget target = tape.gradient_of(*p);
    ops::gemm(context, {dy, x, target.tensor, true, false, target.accumulate});
  }
}

Head::Chunk Head::chunk(ops::Context& context, const Tensor& hidden_rows, const Words& words, bool backward) const {
  Chunk c;
  c.logits = context.arena().matrix(hidden_rows.rows, words.weight.rows.count, DType::f32);
  ops::gemm(context, {hidden_rows, words.weight, c.logits, false, true, false});
  c.low = adapt(context, hidden_rows, words, c.logits);
  if (words.inverse_norms.defined()) ops::scale_columns(context, {c.logits, words.inverse_norms});
  if (options_.softcap > 0) {
    if (backward) c.capped = context.arena().matrix(hidden_rows.rows, words.weight.rows.count, DType::f32);
    ops::softcap(context, {c.logits, options_.softcap, c.capped});
  }
  return c;
}

// Back through the soft cap and, but for the projection, normalised rows: dlogits of the plain product, in place.
void Head::dlogits_back(ops::Context& context, const Chunk& chunk, const Words& words, const Tensor& dlogits) const {
  if (chunk.capped.defined()) ops::softcap_backward(context, {chunk.capped, dlogits, options_.softcap});
  if (words.inverse_norms.defined()) ops::scale_columns(context, {dlogits, words.inverse_norms});
}

// dh = dlogits·W and dW (+)= dlogitsᵀ·h. With normalised rows the rest of their way back is finish_weight_gradient, once
// all chunks are in.
void Head::chunk_gradients(Tape& tape, const Chunk& chunk, const Words& words, const Tensor& dlogits, const Tensor& hidden_rows,
                           const Tensor& dhidden) const {
  ops::Context& context = tape.context();
  dlogits_back(context, chunk, words, dlogits);
  if (dhidden.defined()) ops::gemm(context, {dlogits, words.weight, dhidden, false, false, false});
  if (adapter_) adapter_gradients(tape, chunk.low, dlogits, hidden_rows, dhidden);
  if (!weight_.trainable) return;
  const GradientTarget target = tape.gradient_of(weight_);
  ops::gemm(context, {dlogits, hidden_rows, target.tensor, true, false, target.accumulate});
}

// A projection, so gradients of earlier micro-batches that are in the sum already do not mind.
void Head::finish_weight_gradient(Tape& tape, const Words& words) const {
  if (!words.inverse_norms.defined() || !weight_.trainable || !weight_.gradient_written) return;
  ops::project_rows(tape.context(), {words.weight, words.inverse_norms, tape.gradient_of(weight_).tensor});
}

int64_t Head::chunk_rows(int64_t capacity) const {
  const int64_t fitting = options_.chunk_bytes / ((options_.softcap > 0 ? 8 : 4) * weight_.weight.rows.count);
  return std::max<int64_t>(1, std::min(std::max(kMinRows, fitting), capacity));
}

int64_t Head::slab_words(int64_t capacity) const {
  const int64_t fitting = options_.chunk_bytes / ((options_.softcap > 0 ? 8 : 4) * std::max<int64_t>(1, capacity));
  return std::min(std::max<int64_t>(1, fitting / kWordStep) * kWordStep, weight_.weight.rows.count);
}

Tensor Head::logits(ops::Context& context, const Tensor& hidden_rows) const {
  // The logits stay, the norms behind them go: room for both is taken in this order.
  const Tensor out = context.arena().matrix(hidden_rows.rows, weight_.weight.rows.count, DType::f32);
  ArenaScope scope(context.arena());
  const Words words = all_words(context);
  ops::gemm(context, {hidden_rows, words.weight, out, false, true, false});
  adapt(context, hidden_rows, words, out);
  if (words.inverse_norms.defined()) ops::scale_columns(context, {out, words.inverse_norms});
  if (options_.softcap > 0) ops::softcap(context, {out, options_.softcap, {}});
  return out;
}

void Head::loss(Tape& tape, Value hidden, const Targets& targets, const LossCall& call) const {
  const bool gradient = tape.training() && (hidden->needs_gradient || trains());
  // The gradient of what comes in lies below everything else, so that backward can free the head's own memory behind it:
  // the weight's gradient too, where it is on the stack.
  if (gradient && hidden->needs_gradient && !hidden->gradient_storage.defined()) tape.reserve_gradient(hidden);
  Tape::Scope scope(tape);
  // dh of the labelled rows waits here until backward reaches it.
  Value dhidden = gradient && hidden->needs_gradient ? tape.make(targets.rows, hidden->value.cols, hidden->value.dtype, false) : nullptr;
  if (dhidden) tape.keep(dhidden);
  RowSlabs how = RowSlabs::no;
  if (gradient && weight_.trainable && !call.hook && chunk_rows(targets.rows.capacity) < targets.rows.capacity) how = tape.hooks().row_slabs(weight_);
  if (how == RowSlabs::no) loss_in_chunks(tape, hidden, targets, call, dhidden);
  else loss_in_slabs(tape, hidden, targets, call, dhidden, how);
  if (!gradient) return;
  const Tensor rows = targets.label_rows;
  const Head* head = how == RowSlabs::freed ? nullptr : this;
  tape.record([&tape, hidden, dhidden, rows, head] {
    if (dhidden) add_rows_to_gradient(tape, hidden, dhidden->value, rows);
    if (head) head->for_each_trained([&](Parameter& p) { tape.complete_use(p); });
  });
}

void Head::loss_in_chunks(Tape& tape, Value hidden, const Targets& targets, const LossCall& call, Value dhidden) const {
  ops::Context& context = tape.context();
  const DType dtype = hidden->value.dtype;
  const bool gradient = tape.training() && (hidden->needs_gradient || trains());
  // Without storage of its own a gradient goes on the stack now, below the chunks.
  if (gradient)
    for_each_trained([&](Parameter& p) {
      tape.announce_use(p);
      tape.reserve_gradient(p);
    });
  ArenaScope norms(context.arena());
  const Words words = all_words(context);
  const float z_loss = tape.training() ? options_.z_loss : 0.0f;
  for_each_chunk(targets.rows, chunk_rows(targets.rows.capacity), [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor labels = part(targets.labels, first, rows.count);
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Chunk c = chunk(context, h, words, gradient);
    const Tensor& z = c.logits;
    if (call.hook) call.hook->forward(context, z, first);
    const Tensor lse = context.arena().vector(rows.capacity, DType::f32);
    const Tensor correct = call.correct.defined() ? part(call.correct, first, rows.count) : Tensor{};
    ops::token_logprob(context, {z, labels, part(call.logp, first, rows.count), lse, correct, call.label_smoothing, z_loss});
    if (!gradient) return;
    const DType gradient_dtype = call.hook ? DType::f32 : dtype;
    const Tensor dz = ops::logit_gradient(context, {z, labels, lse, part(targets.coefficient, first, rows.count), gradient_dtype,
                                                    call.label_smoothing, z_loss, {}, 0, 0,
                                                    call.by_probability ? part(call.logp, first, rows.count) : Tensor{}});
    if (call.hook) call.hook->backward(context, dz, first);
    chunk_gradients(tape, c, words, dz, h, dhidden ? dhidden->value.slice(first, rows) : Tensor{});
  });
  if (gradient) finish_weight_gradient(tape, words);
}

// Every slab of the weight's gradient is one product over all tokens: written once, rounded once, and final. The price is
// that logits are computed twice.
void Head::loss_in_slabs(Tape& tape, Value hidden, const Targets& targets, const LossCall& call, Value dhidden, RowSlabs how) const {
  ops::Context& context = tape.context();
  const DType dtype = hidden->value.dtype;
  const Rows rows = targets.rows;
  if (how == RowSlabs::kept) {
    tape.announce_use(weight_);
    tape.reserve_gradient(weight_);
  }
  ArenaScope scope(context.arena());
  const Words words = all_words(context);
  const Tensor h = context.arena().matrix(rows, hidden->value.cols, dtype);
  ops::gather_rows(context, {hidden->value, targets.label_rows, h});
  const Tensor state = context.arena().matrix(rows, ops::SlabColumn::count, DType::f32);
  const Tensor lse = context.arena().vector(rows.capacity, DType::f32);
  const int64_t size = slab_words(rows.capacity);
  const auto for_each_slab = [&](auto&& body) {
    for (int64_t first = 0; first < words.weight.rows.count; first += size) {
      ArenaScope slab_scope(context.arena());
      const int64_t n = std::min(size, words.weight.rows.count - first);
      body(Words{first, words.weight.slice(first, n), words.inverse_norms.defined() ? part(words.inverse_norms, first, n) : Tensor{}});
    }
  };
  for_each_slab([&](const Words& slab) {
    ops::logprob_slab(context, {chunk(context, h, slab, false).logits, targets.labels, state, slab.first});
  });
  ops::finish_logprob(context, {state, words.weight.rows.count, call.logp, lse, call.correct, call.label_smoothing, options_.z_loss});
  // A loss that is not finite must not reach the weights, and here the first would be updated at once.
  if (!std::isfinite(ops::squared_norm(context, part(call.logp, 0, rows.count)))) return;
  const Tensor dh = dhidden ? context.arena().matrix(rows, hidden->value.cols, DType::f32) : Tensor{};
  for_each_slab([&](const Words& slab) {
    const Chunk c = chunk(context, h, slab, true);
    const Tensor dz = ops::logit_gradient(context, {c.logits, targets.labels, lse, targets.coefficient, dtype, call.label_smoothing,
                                                    options_.z_loss, state, slab.first, words.weight.rows.count,
                                                    call.by_probability ? part(call.logp, 0, rows.count) : Tensor{}});
    dlogits_back(context, c, slab, dz);
    if (dh.defined()) ops::gemm(context, {dz, slab.weight, dh, false, false, slab.first > 0});
    const int64_t n = slab.weight.rows.count;
    const Tensor dw = how == RowSlabs::kept ? weight_.gradient.slice(slab.first, n)
                                            : context.arena().matrix(Rows::exactly(n), weight_.weight.cols, weight_.gradient_dtype);
    ops::gemm(context, {dz, h, dw, true, false, false});
    if (slab.inverse_norms.defined()) ops::project_rows(context, {slab.weight, slab.inverse_norms, dw});
    if (how == RowSlabs::freed) tape.hooks().rows_complete(weight_, slab.first, dw);
  });
  if (how == RowSlabs::kept) weight_.gradient_written = true;
  if (dhidden) ops::scale(context, {dh, dhidden->value, 1.0f, false});
}

Value Head::logprob(Tape& tape, Value hidden, const Targets& targets, const Tensor& lse, const Tensor& correct) const {
  ops::Context& context = tape.context();
  const bool gradient = hidden->needs_gradient || trains();
  Value logp = tape.make(Rows::exactly(1), targets.rows.capacity, DType::f32, gradient);
  const int64_t size = chunk_rows(targets.rows.capacity);
  ArenaScope norms(context.arena());
  const Words words = all_words(context);
  for_each_chunk(targets.rows, size, [&](int64_t first, Rows rows) {
    ArenaScope scope(context.arena());
    const Tensor h = context.arena().matrix(rows, hidden->value.cols, hidden->value.dtype);
    ops::gather_rows(context, {hidden->value, part(targets.label_rows, first, rows.count), h});
    const Chunk c = chunk(context, h, words, false);
    ops::token_logprob(context, {c.logits, part(targets.labels, first, rows.count), part(logp->value, first, rows.count),
                                 part(lse, first, rows.count), correct.defined() ? part(correct, first, rows.count) : Tensor{}});
  });
  if (!gradient || !tape.training()) return logp;
  for_each_trained([&](Parameter& p) { tape.announce_use(p); });
  tape.keep(hidden);
  tape.keep(logp);
  const Targets t = targets;
  const Head head = *this;  // the closure outlives a temporary
  tape.record([&tape, hidden, logp, t, lse, head, size] {
    ops::Context& c = tape.context();
    const DType dtype = hidden->value.dtype;
    const GradientTarget dx = hidden->needs_gradient ? tape.gradient_of(hidden) : GradientTarget{};
    if (dx.tensor.defined() && !dx.accumulate) ops::fill_zero(c, dx.tensor);
    head.for_each_trained([&](Parameter& p) {
      // Reserve before the chunks: a gradient on the stack must outlive them.
      const GradientTarget dw = tape.gradient_of(p);
      if (!dw.accumulate) ops::fill_zero(c, dw.tensor);
    });
    ArenaScope norms(c.arena());
    const Words words = head.all_words(c);
    for_each_chunk(t.rows, size, [&](int64_t first, Rows rows) {
      ArenaScope scope(c.arena());
      const Tensor labels = part(t.labels, first, rows.count), places = part(t.label_rows, first, rows.count);
      const Tensor h = c.arena().matrix(rows, hidden->value.cols, dtype);
      ops::gather_rows(c, {hidden->value, places, h});
      const Chunk z = head.chunk(c, h, words, true);
      const Tensor minus = c.arena().vector(rows.capacity, DType::f32).columns(0, rows.count);
      ops::scale(c, {part(logp->gradient, first, rows.count), minus, -1.0f, false});
      const Tensor dz = ops::logit_gradient(c, {z.logits, labels, part(lse, first, rows.count), minus, dtype});
      const Tensor dh = dx.tensor.defined() ? c.arena().matrix(rows, hidden->value.cols, dtype) : Tensor{};
      head.chunk_gradients(tape, z, words, dz, h, dh);
      if (dh.defined()) ops::scatter_rows(c, {dh, places, dx.tensor, true});
    });
    head.finish_weight_gradient(tape, words);
    head.for_each_trained([&](Parameter& p) { tape.complete_use(p); });
  });
  return logp;
}

}  // namespace attune::nn
