#include "ops/cross_entropy.h"

#include "ops/backend.h"

namespace attune::ops {

void token_logprob(Context& context, const TokenLogprob& a) {
  require(a.logits.dtype == DType::f32 && a.labels.cols >= a.logits.rows.count, "token_logprob", "fp32 logits [R,V], labels [R]");
  context.count({"token_logprob", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {4.0 * static_cast<double>(a.logits.count()), 4.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) context.backend().token_logprob(a);
}

Tensor logit_gradient(Context& context, const LogitGradient& a) {
  require(a.logits.dtype == DType::f32 && a.logits.contiguous(), "logit_gradient", "contiguous fp32 logits");
  context.count({"logit_gradient", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {4.0 * static_cast<double>(a.logits.count()), 6.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) context.backend().logit_gradient(a);
  Tensor gradient = a.logits;
  gradient.dtype = a.dtype;
  if (a.dtype != DType::f32) gradient.stride = 2 * a.logits.stride;
  return gradient;
}

}  // namespace attune::ops
