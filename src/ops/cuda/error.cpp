#include "ops/cuda/error.h"

#include "util/error.h"

namespace attune::ops::cuda {

void fail_with(const std::string& message) { throw Error(Blame::work, message); }

void fail_with(const char* op, const char* call, cudaError_t error) {
  std::string message = std::string("CUDA, ") + op + ": " + call + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ").";
  if (error == cudaErrorMemoryAllocation) message += " attune plan says what a run takes";
  else message += " The cause may be an op before this one: with ATTUNE_CUDA_SYNC=1 in the environment every op is waited for and names itself";
  fail_with(message);
}

}  // namespace attune::ops::cuda
