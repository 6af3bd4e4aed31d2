#include "ops/rms_norm.h"

#include "ops/backend.h"

namespace attune::ops {

void rms_norm_forward(Context& context, const RmsNormForward& a) {
  require(a.x.rows.count == a.y.rows.count && a.x.cols == a.y.cols, "rms_norm", "x and y have one shape");
  require(a.x.cols % a.weight.cols == 0 && a.rstd.cols >= a.x.rows.count * (a.x.cols / a.weight.cols), "rms_norm",
          "weight is [d], x [N, heads·d], rstd [N·heads]");
  context.count({"rms_norm_forward", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {4.0 * static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  if (!context.dry()) context.backend().rms_norm_forward(a);
}

void rms_norm_backward(Context& context, RmsNormBackward a) {
  require(a.x.rows.count == a.dy.rows.count && a.x.cols == a.dy.cols, "rms_norm_backward", "x and dy have one shape");
  context.count({"rms_norm_backward", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {8.0 * static_cast<double>(a.x.count()), 3.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  const ArenaPart workspace(context.arena(), "workspace");
  if (a.dweight.defined())
    a.partial = context.arena().matrix(Rows::exactly(context.backend().threads()), a.weight.cols, DType::f32);
  if (!context.dry()) context.backend().rms_norm_backward(a);
}

}  // namespace attune::ops
