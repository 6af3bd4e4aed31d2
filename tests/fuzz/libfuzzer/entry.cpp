#include "fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return attune::fuzz::ATTUNE_FUZZ_TARGET(data, size);
}
