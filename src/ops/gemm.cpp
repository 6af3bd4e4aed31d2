#include "ops/gemm.h"

#include <algorithm>

#include "ops/backend.h"

namespace attune::ops {
namespace {

// Some products want workspace in proportion to C (an fp32 copy of a bf16 result for each thread): gigabytes for the
// gradient of a head. Then C is computed in pieces along its longer side; no sum is cut, so nothing else changes.
constexpr uint64_t kMostWorkspace = uint64_t{64} << 20;
constexpr int64_t kPieceStep = 64;

void run(Context& context, const Gemm& g) {
  const uint64_t bytes = context.backend().gemm_workspace(g);
  const ArenaPart workspace(context.arena(), "workspace");
  void* memory = bytes ? context.arena().allocate(bytes) : nullptr;
  if (!context.dry()) context.backend().gemm({g, memory});
}

Gemm columns_of_c(Gemm g, int64_t first, int64_t n) {
  g.b = g.transpose_b ? g.b.slice(first, n) : g.b.columns(first, n);
  g.c = g.c.columns(first, n);
  return g;
}

Gemm rows_of_c(Gemm g, int64_t first, Rows rows) {
  g.a = g.transpose_a ? g.a.columns(first, rows.count) : g.a.slice(first, rows);
  g.c = g.c.slice(first, rows);
  return g;
}

}  // namespace

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
  if (m == 0 || n == 0) return;
  // Pieces follow from capacities, so that they are the same for every batch.
  const uint64_t parts = (context.backend().gemm_workspace(g) + kMostWorkspace - 1) / kMostWorkspace;
  if (parts <= 1) return run(context, g);
  const int64_t rows = g.c.rows.capacity, length = std::max(rows, n);
  const int64_t piece = (length / static_cast<int64_t>(parts) + kPieceStep - 1) / kPieceStep * kPieceStep;
  if (n >= rows) {
    for (int64_t at = 0; at < n; at += piece) run(context, columns_of_c(g, at, std::min(piece, n - at)));
  } else {
    for (int64_t at = 0; at < m; at += piece)
      run(context, rows_of_c(g, at, {std::min(piece, m - at), std::min(piece, rows - at)}));
  }
}

}  // namespace attune::ops
