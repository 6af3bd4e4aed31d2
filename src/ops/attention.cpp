#include "ops/attention.h"

#include "ops/backend.h"

namespace attune::ops {
namespace {

void check(const AttentionShape& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q,
           const Tensor& cu_k) {
  require(s.kv_heads > 0 && s.heads % s.kv_heads == 0, "attention", "heads is a multiple of kv_heads");
  require(q.cols == s.heads * s.head_dim && k.cols == s.kv_heads * s.head_dim && v.cols == k.cols, "attention",
          "q is [Nq, H·d], k and v are [Nk, KV·d]");
  require(cu_q.cols == cu_k.cols && cu_q.cols >= 1, "attention", "cu_q and cu_k have one entry a sequence and one more");
  require(s.dropout == 0 || (s.sample_ids.defined() && s.positions.defined()), "attention", "dropout knows its tokens");
}

double pair_flops(const AttentionShape& s) { return (s.causal ? 2.0 : 4.0) * s.pairs * static_cast<double>(s.heads * s.head_dim); }

Job job_of(std::string_view op, const AttentionShape& s, const Tensor& q) { return {op, {s.heads, s.kv_heads, s.head_dim}, {q.dtype}}; }

}  // namespace

void attention_forward(Context& context, AttentionForward a) {
  check(a.shape, a.q, a.k, a.v, a.cu_q, a.cu_k);
  context.count(job_of("attention_forward", a.shape, a.q), static_cast<double>(a.q.rows.count),
                {pair_flops(a.shape), static_cast<double>(2 * a.q.count() + 2 * a.k.count()) * size_of(a.q.dtype)});
  a.shape.rows_q = a.q.rows.capacity, a.shape.dtype = a.q.dtype;
  const ArenaPart workspace(context.arena(), "workspace");
  a.workspace = context.arena().vector(context.backend().attention_workspace(a.shape, false), DType::f32);
  if (!context.dry()) context.backend().attention_forward(a);
}

void attention_backward(Context& context, AttentionBackward a) {
  check(a.shape, a.q, a.k, a.v, a.cu_q, a.cu_k);
  context.count(job_of("attention_backward", a.shape, a.q), static_cast<double>(a.q.rows.count),
                {2.5 * pair_flops(a.shape), static_cast<double>(4 * a.q.count() + 4 * a.k.count()) * size_of(a.q.dtype)});
  a.shape.rows_q = a.q.rows.capacity, a.shape.dtype = a.q.dtype;
  const ArenaPart workspace(context.arena(), "workspace");
  a.workspace = context.arena().vector(context.backend().attention_workspace(a.shape, true), DType::f32);
  if (!context.dry()) context.backend().attention_backward(a);
}

}  // namespace attune::ops
