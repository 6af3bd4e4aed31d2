#include "nn/weight_product.h"

#include <algorithm>

#include "ops/dequantize.h"
#include "ops/gemm.h"
#include "ops/magnitude.h"

namespace attune::nn {
namespace {

// A slab should stay in the caches between being written and being read, and be wide enough for a product.
constexpr int64_t kSlabElements = 1 << 20, kSlabStep = 64;

// How many rows (columns) of `length` elements make a slab.
int64_t slab_of(int64_t length, int64_t most) {
  return std::min(most, std::max<int64_t>(1, kSlabElements / length / kSlabStep) * kSlabStep);
}

// Columns [first, first + slab.cols) of all of them.
void dequantize_columns(ops::Context& context, std::span<Parameter* const> weights, int64_t first, const Tensor& slab) {
  int64_t row = 0;
  for (const Parameter* p : weights) {
    ops::dequantize(context, {p->quantized, 0, first, slab.slice(row, p->quantized.rows)});
    row += p->quantized.rows;
  }
}

// One matrix (quantised: its shape).
Tensor joined(std::span<Parameter* const> weights) {
  Tensor all = weights[0]->weight;
  int64_t rows = 0;
  for (const Parameter* p : weights) rows += p->weight.rows.count;
  all.rows = Rows::exactly(rows);
  return all;
}

}  // namespace

void multiply_by_weights(ops::Context& context, std::span<Parameter* const> weights, const Tensor& x, const Tensor& y) {
  if (!weights[0]->is_quantized()) return ops::gemm(context, {x, joined(weights), y, false, true, false});
  int64_t column = 0;
  for (const Parameter* p : weights) {
    const QuantizedMatrix& w = p->quantized;
    if (ops::has_quantized_product(context, x, w)) {
      ops::quantized_product(context, {x, y.columns(column, w.rows), w});
      column += w.rows;
      continue;
    }
    const int64_t step = slab_of(w.cols, w.rows);
    for (int64_t first = 0; first < w.rows; first += step) {
      const ArenaPart workspace(context.arena(), "workspace");
      const Tensor slab = context.arena().matrix(Rows::exactly(std::min(step, w.rows - first)), w.cols, x.dtype);
      ops::dequantize(context, {w, first, 0, slab});
      ops::gemm(context, {x, slab, y.columns(column + first, slab.rows.count), false, true, false});
    }
    column += w.rows;
  }
}

void multiply_back(ops::Context& context, std::span<Parameter* const> weights, const Tensor& dy, const GradientTarget& dx) {
  const Tensor all = joined(weights);
  if (!weights[0]->is_quantized()) return ops::gemm(context, {dy, all, dx.tensor, false, false, dx.accumulate});
  const int64_t step = slab_of(all.rows.count, all.cols);
  for (int64_t first = 0; first < all.cols; first += step) {
    const ArenaPart workspace(context.arena(), "workspace");
    const Tensor slab = context.arena().matrix(all.rows, std::min(step, all.cols - first), dy.dtype);
    dequantize_columns(context, weights, first, slab);
    ops::gemm(context, {dy, slab, dx.tensor.columns(first, slab.cols), false, false, dx.accumulate});
  }
}

void adapted_norms(ops::Context& context, const Parameter& weight, const Adapter& a, const Tensor& norms) {
  if (!weight.is_quantized()) return ops::adapted_row_norms(context, {weight.weight, a.a->weight, a.b->weight, a.scale, norms});
  const QuantizedMatrix& w = weight.quantized;
  const int64_t step = slab_of(w.cols, w.rows);
  for (int64_t first = 0; first < w.rows; first += step) {
    const ArenaPart workspace(context.arena(), "workspace");
    const int64_t n = std::min(step, w.rows - first);
    const Tensor slab = context.arena().matrix(Rows::exactly(n), w.cols, DType::f32);
    ops::dequantize(context, {w, first, 0, slab});
    ops::adapted_row_norms(context, {slab, a.a->weight, a.b->weight.slice(first, n), a.scale, norms.columns(first, n)});
  }
}

}  // namespace attune::nn
