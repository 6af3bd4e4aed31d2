#include "ops/gemm.h"

#include "ops/backend.h"

namespace attune::ops {

void gemm(Context& context, const Gemm& g) {
  const int64_t m = g.transpose_a ? g.a.cols : g.a.rows.count;
  const int64_t k = g.transpose_a ? g.a.rows.count : g.a.cols;
  const int64_t n = g.transpose_b ? g.b.rows.count : g.b.cols;
  require(k == (g.transpose_b ? g.b.cols : g.b.rows.count), "gemm", "inner sizes agree");
  require(m == g.c.rows.count && n == g.c.cols, "gemm", "C is [M,N]");
  const auto floating = [](DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; };
  require(floating(g.a.dtype) && floating(g.b.dtype) && floating(g.c.dtype), "gemm", "f32, bf16 or fp16 operands");
  Job job{g.transpose_a ? "gemm_tn" : g.transpose_b ? "gemm_nt" : "gemm_nn", {n, k}, {g.a.dtype, g.b.dtype, g.c.dtype}, g.accumulate};
  if (g.transpose_a) job.shape = {m, n};
  context.count(job, static_cast<double>(g.transpose_a ? k : m),
                {2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
                 static_cast<double>(g.a.count() * static_cast<int64_t>(size_of(g.a.dtype)) +
                                     g.b.count() * static_cast<int64_t>(size_of(g.b.dtype)) +
                                     g.c.count() * static_cast<int64_t>(size_of(g.c.dtype)))});
  const uint64_t bytes = context.backend().gemm_workspace(g);
  const ArenaPart workspace(context.arena(), "workspace");
  void* memory = bytes ? context.arena().allocate(bytes) : nullptr;
  if (context.dry() || m == 0 || n == 0) return;
  context.backend().gemm({g, memory});
}

}  // namespace attune::ops
