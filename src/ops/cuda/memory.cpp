// By CUDA's virtual memory management, which is the driver's: found at run time, so that the plug-in loads without one.
#include "ops/cuda/memory.h"

#include <cuda.h>
#include <dlfcn.h>

#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "ops/cuda/error.h"

namespace attune::ops::cuda {
namespace {

struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity;
  decltype(&cuMemAddressReserve) reserve;
  decltype(&cuMemAddressFree) free;
  decltype(&cuMemCreate) create;
  decltype(&cuMemRelease) release;
  decltype(&cuMemMap) map;
  decltype(&cuMemUnmap) unmap;
  decltype(&cuMemSetAccess) set_access;

  Driver() {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) fail_with(std::string("libcuda.so.1: ") + ::dlerror());
    const auto find = [&](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
      if (!function) fail_with(std::string("the NVIDIA driver has no ") + symbol + "; install a newer one");
    };
    find(granularity, "cuMemGetAllocationGranularity");
    find(reserve, "cuMemAddressReserve");
    find(free, "cuMemAddressFree");
    find(create, "cuMemCreate");
    find(release, "cuMemRelease");
    find(map, "cuMemMap");
    find(unmap, "cuMemUnmap");
    find(set_access, "cuMemSetAccess");
  }
};

const Driver& driver() {
  static const Driver loaded;
  return loaded;
}

void check(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS) fail_with(std::string("CUDA, memory: ") + call + " gave driver error " + std::to_string(static_cast<int>(result)));
}

CUmemAllocationProp properties() {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  p.location.id = 0;  // the first that is visible, as in CudaDevice
  return p;
}

uint64_t granularity() {
  static const uint64_t step = [] {
    const CUmemAllocationProp p = properties();
    size_t bytes = 0;
    check(driver().granularity(&bytes, &p, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED), "cuMemGetAllocationGranularity");
    return static_cast<uint64_t>(bytes);
  }();
  return step;
}

uint64_t whole_steps(uint64_t bytes) { return (bytes + granularity() - 1) / granularity() * granularity(); }

struct Piece {
  CUdeviceptr at;
  uint64_t bytes;
  CUmemGenericAllocationHandle memory;
};
struct Range {
  uint64_t bytes = 0, committed = 0;
  std::vector<Piece> pieces;
};

std::map<void*, Range>& ranges() {
  static std::map<void*, Range> all;
  return all;
}

}  // namespace

void* reserve_addresses(uint64_t bytes) {
  const uint64_t all = whole_steps(bytes ? bytes : 1);
  CUdeviceptr base = 0;
  if (driver().reserve(&base, all, 0, 0, 0) != CUDA_SUCCESS) return nullptr;
  auto* memory = reinterpret_cast<void*>(base);
  ranges()[memory].bytes = all;
  return memory;
}

bool commit_memory(void* base, uint64_t bytes) {
  Range& r = ranges().at(base);
  if (bytes <= r.committed) return true;
  const uint64_t more = whole_steps(bytes) - r.committed;
  if (r.committed + more > r.bytes) fail_with("internal error: memory beyond a reserved range of the device");
  const CUmemAllocationProp p = properties();
  Piece piece{reinterpret_cast<CUdeviceptr>(base) + r.committed, more, 0};
  const CUresult made = driver().create(&piece.memory, more, &p, 0);
  if (made == CUDA_ERROR_OUT_OF_MEMORY) return false;
  check(made, "cuMemCreate");
  check(driver().map(piece.at, more, 0, piece.memory, 0), "cuMemMap");
  CUmemAccessDesc access{};
  access.location = p.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  check(driver().set_access(piece.at, more, &access, 1), "cuMemSetAccess");
  r.pieces.push_back(piece);
  r.committed += more;
  return true;
}

// Destructors call this: no errors from here.
void release_addresses(void* base) {
  const auto at = ranges().find(base);
  if (at == ranges().end()) return;
  for (const Piece& p : at->second.pieces) {
    driver().unmap(p.at, p.bytes);
    driver().release(p.memory);
  }
  driver().free(reinterpret_cast<CUdeviceptr>(base), at->second.bytes);
  ranges().erase(at);
}

}  // namespace attune::ops::cuda
