#include "ops/dequantize.h"

#include "ops/backend.h"

namespace attune::ops {

void dequantize(Context& context, const Dequantize& a) {
  const int64_t rows = a.out.rows.count, cols = a.out.cols;
  require(a.from.on() && a.row >= 0 && a.column >= 0 && a.row + rows <= a.from.rows && a.column + cols <= a.from.cols, "dequantize",
          "a rectangle inside of a quantised matrix");
  const double count = static_cast<double>(a.out.count());
  context.count({a.from.how.four_bits() ? "dequantize_4bit" : "dequantize_8bit", {cols}, {a.out.dtype}}, static_cast<double>(rows),
                {0, count * (a.from.how.bits() / 8 + static_cast<double>(size_of(a.out.dtype)))});
  if (!context.dry()) context.backend().dequantize(a);
}

bool has_quantized_product(const Context& context, const Tensor& x, const QuantizedMatrix& w) {
  return x.rows.capacity <= context.backend().quantized_product_rows && w.how.four_bits() && w.cols % kQuantBlock == 0 && x.dtype != DType::f16;
}

void quantized_product(Context& context, const QuantizedProduct& a) {
  const int64_t m = a.x.rows.count, n = a.w.rows, k = a.w.cols;
  require(a.w.how.four_bits() && k % kQuantBlock == 0, "quantized_product", "a matrix in 4 bits whose rows are whole blocks");
  require(a.x.cols == k && a.y.cols == n && a.y.rows.count == m && m <= kMostProductRows, "quantized_product", "x [m, k], y [m, n] and few rows");
  require(a.x.dtype != DType::f16, "quantized_product", "x in f32 or bf16");
  const double count = static_cast<double>(n) * static_cast<double>(k);
  context.count("quantized_product", 2 * static_cast<double>(m) * count, count * a.w.how.bits() / 8);
  const ArenaPart workspace(context.arena(), "workspace");
  auto* memory = static_cast<float*>(context.arena().allocate(static_cast<uint64_t>(a.x.rows.capacity * k) * sizeof(float)));
  if (!context.dry() && m > 0) context.backend().quantized_product({a, memory});
}

}  // namespace attune::ops
