#include "ops/cross_entropy.h"

#include "ops/backend.h"

namespace attune::ops {

void token_logprob(Context& context, const TokenLogprob& a) {
  require(a.logits.dtype == DType::f32 && a.labels.cols >= a.logits.rows.count, "token_logprob", "fp32 logits [R,V], labels [R]");
  context.count({"token_logprob", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {4.0 * static_cast<double>(a.logits.count()), 4.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) context.backend().token_logprob(a);
}

void logprob_slab(Context& context, const LogprobSlab& a) {
  require(a.logits.dtype == DType::f32 && a.labels.cols >= a.logits.rows.count, "logprob_slab", "fp32 logits [R,S], labels [R]");
  require(a.state.cols == SlabColumn::count && a.state.rows.count == a.logits.rows.count, "logprob_slab", "state [R,5]");
  context.count({"logprob_slab", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {4.0 * static_cast<double>(a.logits.count()), 4.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) context.backend().logprob_slab(a);
}

void finish_logprob(Context& context, const FinishLogprob& a) {
  require(a.state.cols == SlabColumn::count && a.lse.cols >= a.state.rows.count, "finish_logprob", "state [R,5], lse [R]");
  if (!context.dry()) context.backend().finish_logprob(a);
}

Tensor logit_gradient(Context& context, const LogitGradient& a) {
  require(a.logits.dtype == DType::f32 && a.logits.contiguous(), "logit_gradient", "contiguous fp32 logits");
  require(!a.weight_logp.defined() || a.weight_logp.cols >= a.logits.rows.count, "logit_gradient", "weight_logp [R]");
  context.count({"logit_gradient", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {4.0 * static_cast<double>(a.logits.count()), 6.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) {
    LogitGradient whole = a;
    if (!a.state.defined()) whole.vocab = a.logits.cols;
    context.backend().logit_gradient(whole);
  }
  Tensor gradient = a.logits;
  gradient.dtype = a.dtype;
  if (a.dtype != DType::f32) gradient.stride = 2 * a.logits.stride;
  return gradient;
}

}  // namespace attune::ops
