#include "ops/optimizer.h"

#include "ops/backend.h"

namespace attune::ops {
namespace {

double sweep_bytes(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& t : tensors)
    if (t.defined()) bytes += static_cast<double>(t.count()) * static_cast<double>(size_of(t.dtype));
  return bytes;
}

}  // namespace

void adamw(Context& context, const AdamW& a) {
  require(a.parameter.count() == a.gradient.count() && a.parameter.count() == a.m.count() && a.parameter.count() == a.v.count(),
          "adamw", "parameter, gradient and moments have one size");
  context.count(15.0 * static_cast<double>(a.parameter.count()),
                2 * sweep_bytes({a.parameter, a.m, a.v}) + sweep_bytes({a.gradient, a.copy}));
  if (!context.dry()) context.backend().adamw(a);
}

void sgd(Context& context, const Sgd& a) {
  require(a.parameter.count() == a.gradient.count(), "sgd", "parameter and gradient have one size");
  context.count(4.0 * static_cast<double>(a.parameter.count()),
                2 * sweep_bytes({a.parameter}) + sweep_bytes({a.gradient, a.copy}));
  if (!context.dry()) context.backend().sgd(a);
}

double squared_norm(Context& context, const Tensor& x) {
  context.count(2.0 * static_cast<double>(x.count()), sweep_bytes({x}));
  const int64_t blocks = (x.count() + kSquaredNormBlock - 1) / kSquaredNormBlock;
  ArenaScope scope(context.arena());
  auto* partial = static_cast<double*>(context.arena().allocate(static_cast<uint64_t>(blocks) * sizeof(double)));
  return context.dry() ? 0.0 : context.backend().squared_norm({x, partial});
}

}  // namespace attune::ops
