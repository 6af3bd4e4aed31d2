#include "ops/rope.h"

#include "ops/backend.h"

namespace attune::ops {

void rope(Context& context, const Rope& a) {
  require(a.heads > 0 && a.x.cols == a.heads * a.table.cols, "rope", "x is [N, heads·d] and the table [positions, d]");
  require(a.positions.cols == a.x.rows.count, "rope", "one position a token");
  context.count(3.0 * static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype));
  if (!context.dry()) context.backend().rope(a);
}

}  // namespace attune::ops
