// A device whose memory the host cannot touch, although it is the host's: whatever looks at a value without asking the device for
// it crashes here, as it would with a GPU. The kernels are the CPU's; every call is checked to get tensors of the device alone.
#pragma once

#include "ops/backend.h"

namespace attune::testing {

const ops::Backend& guarded_backend();
// Calls of its ops so far.
int64_t guarded_calls();

}  // namespace attune::testing
