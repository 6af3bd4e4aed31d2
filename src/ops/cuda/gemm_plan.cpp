#include "ops/cuda/gemm_plan.h"

#include <algorithm>

namespace attune::ops::cuda {
namespace {

constexpr uint64_t kAlign = 256;

Tensor copy_of(const Tensor& t, uint64_t at, void* workspace) {
  if (at == GemmPlan::kNone) return {};
  return {static_cast<char*>(workspace) + at, DType::f32, t.rows, t.cols, t.cols};
}

Operand operand(const Tensor& t, bool transpose) { return {t.data, std::max<int64_t>({t.stride, t.cols, 1}), t.dtype, transpose}; }

}  // namespace

GemmPlan plan_of(const Gemm& g) {
  GemmPlan plan;
  const auto take = [&](const Tensor& t) {
    const uint64_t at = plan.bytes;
    plan.bytes += (static_cast<uint64_t>(t.rows.capacity * t.cols) * sizeof(float) + kAlign - 1) / kAlign * kAlign;
    return at;
  };
  const bool mixed = g.a.dtype != g.b.dtype;
  if (mixed && g.a.dtype != DType::f32) plan.a = take(g.a);
  if (mixed && g.b.dtype != DType::f32) plan.b = take(g.b);
  const DType compute = mixed ? DType::f32 : g.a.dtype;
  if (g.c.dtype != DType::f32 && g.c.dtype != compute) plan.c = take(g.c);
  plan.library = plan.bytes;
  plan.bytes += GemmPlan::kLibrary + kAlign;  // the arena aligns to less than the library asks for
  return plan;
}

GemmCopies copies_of(const Gemm& g, const GemmPlan& plan, void* workspace) {
  return {copy_of(g.a, plan.a, workspace), copy_of(g.b, plan.b, workspace), copy_of(g.c, plan.c, workspace)};
}

Product product_of(const Gemm& g, const GemmPlan& plan, const GemmCopies& copies, void* workspace) {
  Product p;
  p.m = g.c.cols, p.n = g.c.rows.count, p.k = g.transpose_a ? g.a.rows.count : g.a.cols;
  p.a = operand(copies.b.defined() ? copies.b : g.b, g.transpose_b);
  p.b = operand(copies.a.defined() ? copies.a : g.a, g.transpose_a);
  p.c = operand(copies.c.defined() ? copies.c : g.c, false);
  p.accumulate = g.accumulate && !copies.c.defined();
  const auto at = reinterpret_cast<uintptr_t>(workspace) + plan.library;
  p.workspace = reinterpret_cast<void*>((at + kAlign - 1) / kAlign * kAlign), p.workspace_bytes = GemmPlan::kLibrary;
  return p;
}

}  // namespace attune::ops::cuda
