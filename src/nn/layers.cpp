#include "nn/layers.h"

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace attune::nn {

Value embedding(Tape& tape, const Tensor& ids, Rows rows, Parameter& table, DType dtype) {
  Value y = tape.make(rows, table.weight.cols, dtype, table.trainable);
  ops::embedding_forward(tape.context(), {ids, table.weight, y->value});
  if (!table.trainable) return y;
  tape.announce_use(table);
  Parameter* p = &table;
  tape.record([&tape, ids, p, y] {
    const GradientTarget target = tape.gradient_of(*p);
    if (!target.accumulate) ops::fill_zero(tape.context(), target.tensor);
    ops::embedding_backward(tape.context(), {ids, y->gradient, target.tensor, {}});
    tape.complete_use(*p);
  });
  return y;
}

Value rms_norm(Tape& tape, Value x, Parameter& weight, float eps) {
  const bool needs = x->needs_gradient || weight.trainable;
  Value y = tape.make(x->value.rows, x->value.cols, x->value.dtype, needs);
  Value rstd = tape.make(Rows::exactly(1), x->value.rows.capacity, DType::f32, false);
  ops::rms_norm_forward(tape.context(), {x->value, weight.weight, eps, y->value, rstd->value});
  if (!needs) return y;
  tape.announce_use(weight);
  tape.keep(x);
  tape.keep(rstd);
  Parameter* w = &weight;
  tape.record([&tape, x, y, rstd, w] {
    ops::RmsNormBackward args{x->value, w->weight, rstd->value, y->gradient, {}, false, {}, false, {}};
    if (x->needs_gradient) {
      const GradientTarget dx = tape.gradient_of(x);
      args.dx = dx.tensor;
      args.accumulate_dx = dx.accumulate;
    }
    if (w->trainable) {
      const GradientTarget dw = tape.gradient_of(*w);
      args.dweight = dw.tensor;
      args.accumulate_dweight = dw.accumulate;
    }
    ops::rms_norm_backward(tape.context(), args);
    if (w->trainable) tape.complete_use(*w);
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

Value swiglu(Tape& tape, Value x) {
  Value y = tape.make(x->value.rows, x->value.cols / 2, x->value.dtype, x->needs_gradient);
  ops::swiglu_forward(tape.context(), {x->value, y->value});
  if (!x->needs_gradient) return y;
  tape.keep(x);
  x->gradient_storage = x->value;  // nobody else needs gate and up: their gradient takes their place
  tape.record([&tape, x, y] {
    const GradientTarget dx = tape.gradient_of(x);
    ops::swiglu_backward(tape.context(), {x->value, y->gradient, dx.tensor});
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

struct Qkv {
  Tensor q, k, v;
};
Qkv split(const Tensor& qkv, const ops::AttentionShape& s) {
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

void rotate(Tape& tape, const Qkv& t, const AttentionCall& call, bool backward) {
  if (!call.rope_table) return;
  ops::rope(tape.context(), {t.q, call.stream->positions, *call.rope_table, call.shape.heads, backward});
  ops::rope(tape.context(), {t.k, call.stream->positions, *call.rope_table, call.shape.kv_heads, backward});
}

}  // namespace

Value attention(Tape& tape, Value qkv, const AttentionCall& call) {
  ops::Context& context = tape.context();
  const ops::AttentionShape& shape = call.shape;
  const Stream& stream = *call.stream;
  Value out = tape.make(qkv->value.rows, shape.heads * shape.head_dim, qkv->value.dtype, qkv->needs_gradient);
  Value lse = tape.make(qkv->value.rows, shape.heads, DType::f32, false);
  const Qkv t = split(qkv->value, shape);
  rotate(tape, t, call, false);
  Tensor k = t.k, v = t.v;
  if (call.cache) {
    const int64_t n = stream.rows.count;
    k = call.cache->k.slice(0, stream.past + n);
    v = call.cache->v.slice(0, stream.past + n);
    ops::scale(context, {t.k, k.slice(stream.past, n), 1.0f, false});
    ops::scale(context, {t.v, v.slice(stream.past, n), 1.0f, false});
  }
  const Tensor& cu_keys = stream.cu_keys.defined() ? stream.cu_keys : stream.cu_seqlens;
  ops::attention_forward(context, {shape, t.q, k, v, stream.cu_seqlens, cu_keys, out->value, lse->value, {}});
  if (!qkv->needs_gradient) return out;
  for (Value kept : {qkv, out, lse}) tape.keep(kept);
  qkv->gradient_storage = qkv->value;  // each head's q, k, v are read before their gradient is written
  tape.record([&tape, qkv, out, lse, call] {
    const Qkv x = split(qkv->value, call.shape);
    const Qkv d = split(tape.gradient_of(qkv).tensor, call.shape);
    const Tensor& cu = call.stream->cu_seqlens;
    ops::attention_backward(tape.context(), {call.shape, x.q, x.k, x.v, cu, cu, out->value, lse->value, out->gradient,
                                             d.q, d.k, d.v, {}});
    rotate(tape, d, call, true);
  });
  return out;
}

}  // namespace attune::nn
