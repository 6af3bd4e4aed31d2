#include "ops/swiglu.h"

#include "ops/backend.h"

namespace attune::ops {

void swiglu_forward(Context& context, const SwigluForward& a) {
  require(a.x.cols == 2 * a.y.cols && a.x.rows.count == a.y.rows.count, "swiglu", "x is [N,2f] and y [N,f]");
  context.count({"swiglu_forward", {a.y.cols}, {a.y.dtype}}, static_cast<double>(a.y.rows.count),
                {5.0 * static_cast<double>(a.y.count()), 3.0 * static_cast<double>(a.y.count()) * size_of(a.y.dtype)});
  if (!context.dry()) context.backend().swiglu_forward(a);
}

void swiglu_backward(Context& context, const SwigluBackward& a) {
  require(a.x.cols == 2 * a.dy.cols && a.dx.cols == a.x.cols, "swiglu_backward", "x and dx are [N,2f], dy is [N,f]");
  context.count({"swiglu_backward", {a.dy.cols}, {a.dy.dtype}}, static_cast<double>(a.dy.rows.count),
                {10.0 * static_cast<double>(a.dy.count()), 5.0 * static_cast<double>(a.dy.count()) * size_of(a.dy.dtype)});
  if (!context.dry()) context.backend().swiglu_backward(a);
}

}  // namespace attune::ops
