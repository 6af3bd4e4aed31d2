#include "ops/context.h"

#include "ops/backend.h"
#include "util/error.h"

namespace attune::ops {

Device& Context::device() const { return backend_.device(); }

void require(bool condition, const char* op, const char* what) {
  if (!condition) fail("internal error in op {}: {} does not hold. Please report this with the configuration", op, what);
}

}  // namespace attune::ops
