// There is no cuBLASLt to emulate: what gemm plans is computed by its own plain kernel.
#include "ops/cuda/gemm_plan.h"

namespace attune::ops::cuda {

const char* library_missing() { return nullptr; }
void multiply(const Product& p) { multiply_plainly(p); }

}  // namespace attune::ops::cuda
