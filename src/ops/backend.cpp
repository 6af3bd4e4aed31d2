#include "ops/backend.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "util/error.h"
#include "util/machine.h"

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

namespace {

// The plug-in's own reason where it has one.
const Backend* load_cuda(std::string& why) {
  const std::string path = program_directory() + "/libattune_cuda.so";
  if (::access(path.c_str(), F_OK) != 0) return why = "this build has no GPU plug-in (" + path + "; docs/building.md)", nullptr;
  void* plugin = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!plugin) return why = fmt::format("{} cannot be loaded: {}", path, ::dlerror()), nullptr;
  using Entry = const Backend* (*)(char* why, size_t size);
  const auto entry = reinterpret_cast<Entry>(::dlsym(plugin, "attune_cuda_backend"));
  if (!entry) return why = path + " is not this program's plug-in", nullptr;
  char reason[512] = "";
  const Backend* backend = entry(reason, sizeof reason);
  if (!backend) why = reason;
  return backend;
}

std::vector<const Backend*>& added() {
  static std::vector<const Backend*> backends;
  return backends;
}

}  // namespace

const Backend* cuda_backend(std::string* why) {
  static std::string reason;
  static const Backend* backend = load_cuda(reason);
  if (why) *why = reason;
  return backend;
}

const Backend& choose_backend(const std::string& device) {
  if (device == "cpu") return cpu_backend();
  if (!added().empty()) return *added().back();
  std::string why;
  const Backend* cuda = cuda_backend(&why);
  if (cuda) return *cuda;
  if (device == "auto") return cpu_backend();
  refuse("device: cuda: {}. Use device: cpu, or auto, which takes a GPU where there is one", why);
}

const Backend& backend_of(const Device& device) {
  if (device.is_host()) return cpu_backend();
  for (const Backend* b : added())
    if (&b->device() == &device) return *b;
  return *cuda_backend();
}

void add_backend(const Backend& backend) { added().push_back(&backend); }

const Backend& cpu_backend() {
  static const Backend& backend = choose();
  return backend;
}

}  // namespace attune::ops
