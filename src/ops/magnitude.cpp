#include "ops/magnitude.h"

#include "ops/backend.h"

namespace attune::ops {
namespace {

bool same_kind(const Tensor& a, const Tensor& b) { return a.rows.count == b.rows.count && a.cols == b.cols && a.dtype == b.dtype; }

}  // namespace

void adapted_row_norms(Context& context, const AdaptedRowNorms& a) {
  const int64_t out = a.weight.rows.count, in = a.weight.cols, r = a.a.rows.count;
  require(a.a.cols == in && a.b.rows.count == out && a.b.cols == r && a.a.dtype == a.b.dtype && a.out.cols == out, "adapted_row_norms",
          "W [out,in], A [r,in], B [out,r], out [out]");
  context.count({"adapted_row_norms", {in, r}, {a.weight.dtype}}, static_cast<double>(out),
                {2.0 * static_cast<double>(out * in * (r + 1)), static_cast<double>(a.weight.count()) * size_of(a.weight.dtype)});
  if (!context.dry()) context.backend().adapted_row_norms(a);
}

void magnitude_forward(Context& context, MagnitudeForward a) {
  require(same_kind(a.x, a.y) && a.magnitude.cols == a.x.cols && a.norms.cols == a.x.cols, "magnitude_forward", "x and y [N,d] of one dtype, magnitude and norms [d]");
  context.count({"magnitude_forward", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  const ArenaPart workspace(context.arena(), "workspace");
  a.gain = context.arena().matrix(Rows::exactly(1), a.x.cols, DType::f32);
  if (!context.dry()) context.backend().magnitude_forward(a);
}

void magnitude_backward(Context& context, const MagnitudeBackward& a) {
  require(same_kind(a.dy, a.dx) && same_kind(a.dy, a.x) && a.magnitude.cols == a.dy.cols && a.norms.cols == a.dy.cols, "magnitude_backward",
          "dy, x and dx [N,d] of one dtype, magnitude and norms [d]");
  context.count({"magnitude_backward", {a.dy.cols}, {a.dy.dtype}}, static_cast<double>(a.dy.rows.count),
                {3.0 * static_cast<double>(a.dy.count()), 3.0 * static_cast<double>(a.dy.count()) * size_of(a.dy.dtype)});
  if (!context.dry()) context.backend().magnitude_backward(a);
}

}  // namespace attune::ops
