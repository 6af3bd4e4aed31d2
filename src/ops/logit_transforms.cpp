#include "ops/logit_transforms.h"

#include "ops/backend.h"

namespace attune::ops {

void inverse_row_norms(Context& context, const InverseRowNorms& a) {
  require(a.out.dtype == DType::f32 && a.out.cols == a.weight.rows.count, "inverse_row_norms", "out is f32 [V]");
  context.count({"inverse_row_norms", {a.weight.cols}, {a.weight.dtype}}, static_cast<double>(a.weight.rows.count),
                {2.0 * static_cast<double>(a.weight.count()), static_cast<double>(a.weight.count()) * size_of(a.weight.dtype)});
  if (!context.dry()) context.backend().inverse_row_norms(a);
}

void scale_columns(Context& context, const ScaleColumns& a) {
  require(a.scale.dtype == DType::f32 && a.scale.cols == a.x.cols, "scale_columns", "scale is f32 [V]");
  context.count({"scale_columns", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  if (!context.dry()) context.backend().scale_columns(a);
}

void project_rows(Context& context, const ProjectRows& a) {
  require(a.weight.rows.count == a.gradient.rows.count && a.weight.cols == a.gradient.cols, "project_rows", "one shape");
  require(a.inverse_norm.cols == a.weight.rows.count, "project_rows", "one norm a row");
  context.count({"project_rows", {a.weight.cols}, {a.weight.dtype}}, static_cast<double>(a.weight.rows.count),
                {4.0 * static_cast<double>(a.weight.count()), 3.0 * static_cast<double>(a.weight.count()) * size_of(a.weight.dtype)});
  if (!context.dry()) context.backend().project_rows(a);
}

void softcap(Context& context, const Softcap& a) {
  require(a.logits.dtype == DType::f32 && a.cap > 0, "softcap", "f32 logits and a cap above 0");
  context.count({"softcap", {a.logits.cols}, {a.logits.dtype}}, static_cast<double>(a.logits.rows.count),
                {10.0 * static_cast<double>(a.logits.count()), 8.0 * static_cast<double>(a.logits.count())});
  if (!context.dry()) context.backend().softcap(a);
}

void softcap_backward(Context& context, const SoftcapBackward& a) {
  require(a.capped.rows.count == a.dlogits.rows.count && a.capped.cols == a.dlogits.cols, "softcap_backward", "one shape");
  context.count({"softcap_backward", {a.capped.cols}, {a.capped.dtype}}, static_cast<double>(a.capped.rows.count),
                {3.0 * static_cast<double>(a.capped.count()), 8.0 * static_cast<double>(a.capped.count())});
  if (!context.dry()) context.backend().softcap_backward(a);
}

}  // namespace attune::ops
