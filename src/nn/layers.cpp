#include "nn/layers.h"

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace attune::nn {

namespace {

// dW[v] += scale·Σ dy of the tokens that are v.
void table_gradient(Tape& tape, Parameter& table, const Tensor& ids, const Tensor& dy, float scale) {
  const GradientTarget target = tape.gradient_of(table);
  if (!target.accumulate) ops::fill_zero(tape.context(), target.tensor);
  ops::embedding_backward(tape.context(), {ids, dy, target.tensor, {}, scale});
  tape.complete_use(table);
}

// y += A[ids]·Bᵀ, where A's rows are multiplied by both scales.
void adapt_embedding(Tape& tape, Value y, const EmbeddingCall& call, const Adapter& adapter) {
  const float scale = call.scale * adapter.scale;
  Value hidden = tape.make(call.rows, adapter.a->weight.cols, call.dtype, true);
  ops::embedding_forward(tape.context(), {call.ids, adapter.a->weight, hidden->value, scale});
  ops::gemm(tape.context(), {hidden->value, adapter.b->weight, y->value, false, true, true});
  if (!y->needs_gradient) return;
  for (Parameter* p : {adapter.a, adapter.b}) tape.announce_use(*p);
  if (adapter.b->trainable) tape.keep(hidden);
  tape.record([&tape, y, hidden, call, adapter, scale] {
    ops::Context& context = tape.context();
    if (adapter.a->trainable) {
      ArenaScope workspace(context.arena());
      const Tensor dh = context.arena().matrix(call.rows, hidden->value.cols, call.dtype);
      ops::gemm(context, {y->gradient, adapter.b->weight, dh, false, false, false});
      table_gradient(tape, *adapter.a, call.ids, dh, scale);
    }
    if (!adapter.b->trainable) return;
    const GradientTarget db = tape.gradient_of(*adapter.b);
    ops::gemm(context, {y->gradient, hidden->value, db.tensor, true, false, db.accumulate});
    tape.complete_use(*adapter.b);
  });
}

}  // namespace

Value embedding(Tape& tape, Parameter& table, const EmbeddingCall& call, const Adapter* adapter) {
  const bool adapts = adapter && (adapter->a->trainable || adapter->b->trainable);
  Value y = tape.make(call.rows, table.weight.cols, call.dtype, table.trainable || adapts);
  ops::embedding_forward(tape.context(), {call.ids, table.weight, y->value, call.scale});
  if (table.trainable) {
    tape.announce_use(table);
    Parameter* p = &table;
    tape.record([&tape, call, p, y] { table_gradient(tape, *p, call.ids, y->gradient, call.scale); });
  }
  if (adapter) adapt_embedding(tape, y, call, *adapter);
  return y;
}

namespace {

// Gradients of one norm: of its input into `dx`, and of its weight.
void norm_backward(Tape& tape, const Norm& norm, ops::RmsNormBackward args, const GradientTarget& dx) {
  args.weight = norm.weight->weight;
  args.offset = norm.offset;
  args.dx = dx.tensor;
  args.accumulate_dx = dx.accumulate;
  if (norm.weight->trainable) {
    const GradientTarget dw = tape.gradient_of(*norm.weight);
    args.dweight = dw.tensor;
    args.accumulate_dweight = dw.accumulate;
  }
  ops::rms_norm_backward(tape.context(), args);
  if (norm.weight->trainable) tape.complete_use(*norm.weight);
}

struct Qkv {
  Tensor q, k, v;
};
Qkv split(const Tensor& qkv, const ops::AttentionShape& s) {
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

}  // namespace

Value rms_norm(Tape& tape, Value x, const Norm& norm, Value into) {
  const bool needs = x->needs_gradient || norm.weight->trainable;
  Value y = into ? into : tape.make(x->value.rows, x->value.cols, x->value.dtype, needs);
  y->needs_gradient = needs && tape.training();
  Value rstd = tape.make(Rows::exactly(1), x->value.rows.capacity, DType::f32, false);
  const auto forward = [&tape, x, y, rstd, norm] {
    ops::rms_norm_forward(tape.context(), {x->value, norm.weight->weight, norm.eps, y->value, rstd->value, norm.offset});
  };
  forward();
  if (!into) tape.remake({y, rstd}, x, [&tape, y, rstd, forward] { tape.place(y), tape.place(rstd), forward(); });
  if (!needs) return y;
  tape.announce_use(*norm.weight);
  tape.keep(x);
  tape.keep(rstd);
  tape.record([&tape, x, y, rstd, norm] {
    ops::RmsNormBackward args;
    args.x = x->value, args.rstd = rstd->value, args.dy = y->gradient;
    norm_backward(tape, norm, args, x->needs_gradient ? tape.gradient_of(x) : GradientTarget{});
  });
  return y;
}

Value qk_norm(Tape& tape, Value qkv, const Norm& q, const Norm& k, const ops::AttentionShape& shape) {
  const bool needs = qkv->needs_gradient || q.weight->trainable || k.weight->trainable;
  const Rows rows = qkv->value.rows;
  Value y = tape.make(rows, qkv->value.cols, qkv->value.dtype, needs);
  Value rstd_q = tape.make(Rows::exactly(1), rows.capacity * shape.heads, DType::f32, false);
  Value rstd_k = tape.make(Rows::exactly(1), rows.capacity * shape.kv_heads, DType::f32, false);
  const auto forward = [&tape, qkv, y, rstd_q, rstd_k, q, k, shape] {
    const Qkv in = split(qkv->value, shape), out = split(y->value, shape);
    ops::rms_norm_forward(tape.context(), {in.q, q.weight->weight, q.eps, out.q, rstd_q->value, q.offset});
    ops::rms_norm_forward(tape.context(), {in.k, k.weight->weight, k.eps, out.k, rstd_k->value, k.offset});
    ops::scale(tape.context(), {in.v, out.v, 1.0f, false});
  };
  forward();
  if (!needs) return y;
  tape.remake({y, rstd_q, rstd_k}, qkv, [&tape, y, rstd_q, rstd_k, forward] {
    for (Value v : {y, rstd_q, rstd_k}) tape.place(v);
    forward();
  });
  for (const Norm* n : {&q, &k}) tape.announce_use(*n->weight);
  for (Value kept : {qkv, rstd_q, rstd_k}) tape.keep(kept);
  qkv->gradient_storage = qkv->value;  // each head is read before its gradient is written
  tape.record([&tape, qkv, y, rstd_q, rstd_k, q, k, shape] {
    const Qkv x = split(qkv->value, shape), dy = split(y->gradient, shape);
    const bool wanted = qkv->needs_gradient;
    const Qkv dx = wanted ? split(tape.gradient_of(qkv).tensor, shape) : Qkv{};
    ops::RmsNormBackward of_q, of_k;
    of_q.x = x.q, of_q.rstd = rstd_q->value, of_q.dy = dy.q;
    of_k.x = x.k, of_k.rstd = rstd_k->value, of_k.dy = dy.k;
    norm_backward(tape, q, of_q, {dx.q, false});
    norm_backward(tape, k, of_k, {dx.k, false});
    if (wanted) ops::scale(tape.context(), {dy.v, dx.v, 1.0f, false});
  });
  return y;
}

Value add(Tape& tape, Value x, Value delta) {
  ops::add(tape.context(), {x->value, delta->value, delta->value});
  Value y = tape.wrap(delta->value, x->needs_gradient || delta->needs_gradient);
  y->gradient_storage = x->gradient_storage;
  if (!y->needs_gradient) return y;
  tape.record([&tape, x, delta, y] {
    tape.share_gradient(y->gradient, delta, true);
    tape.share_gradient(y->gradient, x, false);
  });
  return y;
}

Value swiglu(Tape& tape, Value x, ops::GateActivation activation) {
  Value y = tape.make(x->value.rows, x->value.cols / 2, x->value.dtype, x->needs_gradient);
  const auto forward = [&tape, x, y, activation] { ops::swiglu_forward(tape.context(), {x->value, y->value, activation}); };
  forward();
  if (!x->needs_gradient) return y;
  tape.keep(x);
  tape.remake({y}, x, [&tape, y, forward] { tape.place(y), forward(); });
  x->gradient_storage = x->value;  // nobody else needs gate and up: their gradient takes their place
  tape.record([&tape, x, y, activation] {
    const GradientTarget dx = tape.gradient_of(x);
    ops::swiglu_backward(tape.context(), {x->value, y->gradient, dx.tensor, activation});
  });
  return y;
}

void embedding_noise(Tape& tape, Value x, float alpha, uint64_t key, const Stream& stream) {
  if (alpha == 0 || !tape.training()) return;
  ops::embedding_noise(tape.context(), {x->value, alpha, key, stream.cu_seqlens, stream.sample_ids, stream.positions});
}

Value dropout(Tape& tape, Value x, float p, uint64_t key, const Stream& stream) {
  if (p == 0 || !tape.training()) return x;
  const ops::Dropout args{x->value, x->value, p, key, stream.sample_ids, stream.positions};
  ops::dropout(tape.context(), args);
  Value y = tape.wrap(x->value, x->needs_gradient);
  if (!x->needs_gradient) return y;
  tape.record([&tape, x, y, args] {
    // A copy: the incoming gradient may be shared with the residual stream.
    const GradientTarget dx = tape.gradient_of(x);
    ops::Dropout back = args;
    back.x = y->gradient;
    back.y = dx.tensor;
    ops::dropout(tape.context(), back);
  });
  return y;
}

namespace {

void rotate(Tape& tape, const Qkv& t, const AttentionCall& call, bool backward) {
  if (!call.rope_table) return;
  const Tensor positions = call.rope_by_token ? Tensor{} : call.stream->positions;
  const Tensor rows = call.rope_by_token ? call.rope_table->slice(call.stream->past, call.stream->rows) : *call.rope_table;
  ops::rope(tape.context(), {t.q, positions, rows, call.shape.heads, backward});
  ops::rope(tape.context(), {t.k, positions, rows, call.shape.kv_heads, backward});
}

// Appends the keys and values of each sequence to its part of the cache, and lets it attend there.
void attend_cached(ops::Context& context, const Qkv& t, const AttentionCall& call, const Tensor& out, const Tensor& lse) {
  const Stream& stream = *call.stream;
  const CachedSequence only{0, stream.past, stream.rows.count};
  const std::span<const CachedSequence> sequences = stream.cached.empty() ? std::span(&only, 1) : stream.cached;
  int64_t row = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto [begin, past, count] = sequences[s];
    const auto at = static_cast<int64_t>(s);
    const Tensor k = call.cache->k.slice(begin, past + count), v = call.cache->v.slice(begin, past + count);
    ops::scale(context, {t.k.slice(row, count), k.slice(past, count), 1.0f, false});
    ops::scale(context, {t.v.slice(row, count), v.slice(past, count), 1.0f, false});
    ops::AttentionShape shape = call.shape;
    shape.pairs = static_cast<double>(count * (past + count));
    ops::attention_forward(context, {shape, t.q, k, v, stream.cu_seqlens.columns(at, 2), stream.cu_keys.columns(2 * at, 2), out, lse, {}});
    row += count;
  }
}

}  // namespace

Attended attended(Tape& tape, const Rows& rows, const ops::AttentionShape& shape, DType dtype) {
  Value out = tape.make(rows, shape.heads * shape.head_dim, dtype, true);
  return {out, tape.make(rows, shape.heads, DType::f32, false)};
}

void attention(Tape& tape, Value qkv, const AttentionCall& call, const Attended& into) {
  ops::Context& context = tape.context();
  const ops::AttentionShape& shape = call.shape;
  const Stream& stream = *call.stream;
  const auto [out, lse] = into;
  out->needs_gradient = qkv->needs_gradient;
  const Qkv t = split(qkv->value, shape);
  rotate(tape, t, call, false);
  if (call.cache) {
    attend_cached(context, t, call, out->value, lse->value);
    return;
  }
  ops::attention_forward(context, {shape, t.q, t.k, t.v, stream.cu_seqlens, stream.cu_seqlens, out->value, lse->value, {}});
  if (!qkv->needs_gradient) return;
  for (Value kept : {qkv, out, lse}) tape.keep(kept);
  if (qkv->remade) tape.remake({qkv}, qkv, [&tape, qkv, call] { rotate(tape, split(qkv->value, call.shape), call, false); });
  qkv->gradient_storage = qkv->value;  // each head's q, k, v are read before their gradient is written
  tape.record([&tape, qkv, out, lse, call] {
    const Qkv x = split(qkv->value, call.shape);
    const Qkv d = split(tape.gradient_of(qkv).tensor, call.shape);
    const Tensor& cu = call.stream->cu_seqlens;
    ops::attention_backward(tape.context(), {call.shape, x.q, x.k, x.v, cu, cu, out->value, lse->value, out->gradient,
                                             d.q, d.k, d.v, {}});
    rotate(tape, d, call, true);
  });
}

}  // namespace attune::nn
