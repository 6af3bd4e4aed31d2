#include "ops/backend.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "util/error.h"

namespace attune::ops {
namespace cpu {
namespace portable { const Backend& backend(); }
#if defined(__x86_64__)
namespace avx2 { const Backend& backend(); }
namespace avx512 { const Backend& backend(); }
namespace avx512_bf16 { const Backend& backend(); }
#endif
}  // namespace cpu

namespace {

std::vector<const Backend*> detect() {
  std::vector<const Backend*> found{&cpu::portable::backend()};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&cpu::avx2::backend());
  if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&cpu::avx512::backend());
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16")) found.push_back(&cpu::avx512_bf16::backend());
#endif
  return found;
}

const Backend& choose() {
  const auto available = cpu_backends();
  const char* wanted = std::getenv("ATTUNE_ISA");
  if (!wanted) return *available.back();
  for (const Backend* b : available)
    if (std::string(b->name) == std::string("cpu (") + wanted + ")") return *b;
  refuse("ATTUNE_ISA={}: this processor or build does not have it; known are portable, avx2, avx512 and avx512_bf16", wanted);
}

}  // namespace

std::span<const Backend* const> cpu_backends() {
  static const std::vector<const Backend*> backends = detect();
  return backends;
}

const Backend& cpu_backend() {
  static const Backend& backend = choose();
  return backend;
}

}  // namespace attune::ops
