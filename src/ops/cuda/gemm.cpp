#include "ops/cuda/gemm_plan.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {

uint64_t gemm_workspace(const Gemm& g) { return plan_of(g).bytes; }

void gemm(const GemmCall& call) {
  const Gemm& g = call.args;
  if ((g.transpose_a ? g.a.rows.count : g.a.cols) == 0) {
    if (!g.accumulate) fill_zero(g.c);
    return;
  }
  const GemmPlan plan = plan_of(g);
  const GemmCopies copies = copies_of(g, plan, call.workspace);
  if (copies.a.defined()) scale({g.a, copies.a});
  if (copies.b.defined()) scale({g.b, copies.b});
  multiply(product_of(g, plan, copies, call.workspace));
  if (copies.c.defined()) scale({copies.c, g.c, 1.0f, g.accumulate});  // rounds the sum once
}

}  // namespace attune::ops::cuda
