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

}  // namespace attune::ops
