#include "ops/context.h"

#include "util/error.h"

namespace attune::ops {

void require(bool condition, const char* op, const char* what) {
  if (!condition) fail("internal error in op {}: {} does not hold. Please report this with the configuration", op, what);
}

}  // namespace attune::ops
