#include "nn/score_head.h"

#include "ops/elementwise.h"
#include "ops/gemm.h"

namespace attune::nn {

Value sequence_scores(Tape& tape, Value hidden, Parameter& weight, const Tensor& rows, Rows count) {
  ops::Context& context = tape.context();
  const DType dtype = hidden->value.dtype;
  const bool needs = hidden->needs_gradient || weight.trainable;
  Value last = tape.make(count, hidden->value.cols, dtype, false);
  Value scores = tape.make(count, weight.weight.rows.count, DType::f32, needs);
  ops::gather_rows(context, {hidden->value, rows, last->value});
  ops::gemm(context, {last->value, weight.view().dense, scores->value, false, true, false});
  if (!needs || !tape.training()) return scores;
  tape.announce_use(weight);
  tape.keep(last);
  tape.keep(scores);
  Parameter* w = &weight;
  tape.record([&tape, hidden, last, scores, w, rows, count, dtype] {
    ops::Context& c = tape.context();
    const GradientTarget dx = hidden->needs_gradient ? tape.gradient_of(hidden) : GradientTarget{};
    if (dx.tensor.defined() && !dx.accumulate) ops::fill_zero(c, dx.tensor);
    const GradientTarget dw = w->trainable ? tape.gradient_of(*w) : GradientTarget{};
    {
      ArenaScope scope(c.arena());
      const Tensor dscores = c.arena().matrix(count, scores->value.cols, dtype);
      ops::scale(c, {scores->gradient, dscores, 1.0f, false});
      if (dw.tensor.defined()) ops::gemm(c, {dscores, last->value, dw.tensor, true, false, dw.accumulate});
      if (dx.tensor.defined()) {
        const Tensor dh = c.arena().matrix(count, hidden->value.cols, dtype);
        ops::gemm(c, {dscores, w->view().dense, dh, false, false, false});
        ops::scatter_rows(c, {dh, rows, dx.tensor, true});
      }
    }
    if (w->trainable) tape.complete_use(*w);
  });
  return scores;
}

}  // namespace attune::nn
