// Address ranges of the device that memory is put behind piece by piece.
#pragma once

#include <cstdint>

namespace attune::ops::cuda {

// nullptr where the device has no such range left.
void* reserve_addresses(uint64_t bytes);
// Memory behind the first `bytes` of a range, as far as there is none; false where it does not suffice.
bool commit_memory(void* base, uint64_t bytes);
void release_addresses(void* base);

}  // namespace attune::ops::cuda
