#include "ops/rope.h"

#include "ops/backend.h"

namespace attune::ops {

void rope(Context& context, const Rope& a) {
  require(a.heads > 0 && a.x.cols % a.heads == 0 && a.x.cols / a.heads >= a.table.cols, "rope",
          "x is [N, heads·d] and the table [rows, r] with r ≤ d");
  require(a.positions.defined() ? a.positions.cols == a.x.rows.count : a.table.rows.count >= a.x.rows.count, "rope",
          "one position, or one row of the table, a token");
  context.count({"rope", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {3.0 * static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  if (!context.dry()) context.backend().rope(a);
}

void rope_table(Context& context, const RopeTable& a) {
  require(a.table.dtype == DType::f32 && a.table.cols % 2 == 0 && a.frequency && a.limit > 0, "rope_table", "f32 [N,r], r even");
  context.count({"rope_table", {a.table.cols}, {a.table.dtype}}, static_cast<double>(a.table.rows.count),
                {20.0 * static_cast<double>(a.table.count()), 4.0 * static_cast<double>(a.table.count())});
  if (!context.dry()) context.backend().rope_table(a);
}

}  // namespace attune::ops
