#include "nn/weight_product.h"

#include <algorithm>

#include "ops/dequantize.h"
#include "ops/gemm.h"

namespace attune::nn {
namespace {

// A slab should stay in the caches between being written and being read, and be wide enough for a product.
constexpr int64_t kSlabElements = 1 << 20, kSlabStep = 64;

// How many rows (columns) of `length` elements make a slab.
int64_t slab_of(int64_t length, int64_t most) {
  return std::min(most, std::max<int64_t>(1, kSlabElements / length / kSlabStep) * kSlabStep);
}

// Columns [first, first + slab.cols) of all of them.
void dequantize_columns(ops::Context& context, const std::vector<Parameter*>& weights, int64_t first, const Tensor& slab) {
  int64_t row = 0;
  for (const Parameter* p : weights) {
    ops::dequantize(context, {p->quantized, 0, first, slab.slice(row, p->quantized.rows)});
    row += p->quantized.rows;
  }
}

}  // namespace

void multiply_by_weights(ops::Context& context, const Linear& layer, const Tensor& x, const Tensor& y) {
  if (!layer.weights[0]->is_quantized()) return ops::gemm(context, {x, layer.weight().dense, y, false, true, false});
  int64_t column = 0;
  for (const Parameter* p : layer.weights) {
    const QuantizedMatrix& w = p->quantized;
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

void multiply_back(ops::Context& context, const Linear& layer, const Tensor& dy, const GradientTarget& dx) {
  const Tensor all = layer.weight().dense;
  if (!layer.weights[0]->is_quantized()) return ops::gemm(context, {dy, all, dx.tensor, false, false, dx.accumulate});
  const int64_t step = slab_of(all.rows.count, all.cols);
  for (int64_t first = 0; first < all.cols; first += step) {
    const ArenaPart workspace(context.arena(), "workspace");
    const Tensor slab = context.arena().matrix(all.rows, std::min(step, all.cols - first), dy.dtype);
    dequantize_columns(context, layer.weights, first, slab);
    ops::gemm(context, {dy, slab, dx.tensor.columns(first, slab.cols), false, false, dx.accumulate});
  }
}

}  // namespace attune::nn
