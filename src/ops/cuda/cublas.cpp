// The one file that speaks cuBLASLt. The library is found at run time: it is several times larger than everything else together,
// and a machine that trains has it already, with CUDA or with a Python wheel.
#include <cublasLt.h>
#include <dlfcn.h>
#include <glob.h>

#include <compare>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "ops/cuda/device.h"
#include "ops/cuda/error.h"
#include "ops/cuda/gemm_plan.h"

namespace attune::ops::cuda {
namespace {

// Where it may lie beside the dynamic linker's own places.
std::vector<std::string> places() {
  std::vector<std::string> patterns;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const char* root = std::getenv(variable)) {
      patterns.push_back(std::string(root) + "/lib/python3*/site-packages/nvidia/*/lib");
      patterns.push_back(std::string(root) + "/lib");
    }
  // Pythons that the shell would find: an environment whose bin/ is in PATH though nobody activated it.
  if (const char* path = std::getenv("PATH")) {
    std::stringstream directories(path);
    for (std::string bin; std::getline(directories, bin, ':');)
      if (bin.ends_with("/bin")) patterns.push_back(bin.substr(0, bin.size() - 3) + "lib/python3*/site-packages/nvidia/*/lib");
  }
  if (const char* root = std::getenv("CUDA_HOME")) patterns.push_back(std::string(root) + "/lib64");
  for (const char* p : {"/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64", "/usr/local/cuda-*/lib", "/usr/local/lib/python3*/dist-packages/nvidia/*/lib",
                        "/usr/local/lib/python3*/site-packages/nvidia/*/lib", "/usr/lib/python3*/dist-packages/nvidia/*/lib",
                        "/opt/*/lib/python3*/site-packages/nvidia/*/lib"})
    patterns.emplace_back(p);
  std::vector<std::string> found;
  for (const std::string& p : patterns) {
    glob_t matches{};
    if (::glob(p.c_str(), 0, nullptr, &matches) == 0)
      for (size_t i = 0; i < matches.gl_pathc; ++i) found.emplace_back(matches.gl_pathv[i]);
    ::globfree(&matches);
  }
  return found;
}

struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  std::string missing;  // why there is none

  Library() {
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    void* handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string first = handle ? "" : ::dlerror();
    if (!handle)
      for (const std::string& place : places())
        if ((handle = ::dlopen((place + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL))) break;
    if (!handle) {
      missing = name + " (cuBLAS of CUDA " + std::to_string(CUBLAS_VER_MAJOR) + ") was not found: " + first +
                ". Install it (with CUDA, or pip install nvidia-cublas) or put its directory into LD_LIBRARY_PATH";
      return;
    }
    const auto find = [&](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, symbol));
      if (!function && missing.empty()) missing = name + " has no " + symbol;
    };
    find(create, "cublasLtCreate");
    find(matmul, "cublasLtMatmul");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
  }
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail_with(std::string("CUDA, gemm: ") + call + " gave cuBLAS status " + std::to_string(static_cast<int>(status)));
}

cublasLtHandle_t handle() {
  static cublasLtHandle_t made = [] {
    cublasLtHandle_t h = nullptr;
    check(library().create(&h), "cublasLtCreate");
    return h;
  }();
  return made;
}

cudaDataType_t type_of(DType t) { return t == DType::bf16 ? CUDA_R_16BF : t == DType::f16 ? CUDA_R_16F : CUDA_R_32F; }

// What a pointer is aligned to, 16 bytes at most.
uint32_t alignment(const void* p) {
  const auto bits = reinterpret_cast<uintptr_t>(p) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// All that a choice of kernel depends on.
struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  DType a, b, c;
  bool transpose_a, transpose_b;
  uint32_t align_a, align_b, align_c;
  auto operator<=>(const Key&) const = default;
};

struct Choice {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  bool found = false;
  cublasLtMatmulAlgo_t algo{};
};

cublasLtMatrixLayout_t layout(const Operand& o, int64_t rows, int64_t cols) {
  cublasLtMatrixLayout_t made = nullptr;
  if (o.transpose) std::swap(rows, cols);
  check(library().layout_create(&made, type_of(o.dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), o.leading), "cublasLtMatrixLayoutCreate");
  return made;
}

// The heuristic's first choice: the same in every run. Timing the first few would be faster now and then, and would give other
// bits now and then.
Choice choose(const Product& p) {
  const Library& l = library();
  Choice choice;
  check(l.desc_create(&choice.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");  // no TF32
  const cublasOperation_t ta = p.a.transpose ? CUBLAS_OP_T : CUBLAS_OP_N, tb = p.b.transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(l.desc_set(choice.desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta), "cublasLtMatmulDescSetAttribute");
  check(l.desc_set(choice.desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb), "cublasLtMatmulDescSetAttribute");
  choice.a = layout(p.a, p.m, p.k);
  choice.b = layout(p.b, p.k, p.n);
  choice.c = layout(p.c, p.m, p.n);
  cublasLtMatmulPreference_t preference = nullptr;
  check(l.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(l.preference_set(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, p.workspace_bytes);
  // Parts of a sum meet in fp32 or not at all.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.c.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.c.data));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status = l.heuristic(handle(), choice.desc, choice.a, choice.b, choice.c, choice.c, preference, 1, &result, &count);
  l.preference_destroy(preference);
  choice.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  choice.algo = result.algo;
  return choice;
}

void forget(std::map<Key, Choice>& choices) {
  for (auto& [key, c] : choices) {
    library().desc_destroy(c.desc);
    for (cublasLtMatrixLayout_t x : {c.a, c.b, c.c}) library().layout_destroy(x);
  }
  choices.clear();
}

const Choice& choice_for(const Product& p) {
  static std::map<Key, Choice> choices;
  constexpr size_t kMost = 8192;  // micro-batches differ in their number of rows
  const Key key{p.m, p.n, p.k, p.a.leading, p.b.leading, p.c.leading, p.a.dtype, p.b.dtype, p.c.dtype, p.a.transpose, p.b.transpose,
                alignment(p.a.data), alignment(p.b.data), alignment(p.c.data)};
  const auto at = choices.find(key);
  if (at != choices.end()) return at->second;
  if (choices.size() >= kMost) forget(choices);
  return choices.emplace(key, choose(p)).first->second;
}

bool plain_wanted() {
  static const bool wanted = [] {
    const char* value = std::getenv("ATTUNE_CUDA_GEMM");
    return value && std::strcmp(value, "plain") == 0;
  }();
  return wanted;
}

}  // namespace

const char* library_missing() {
  if (plain_wanted()) return nullptr;
  return library().missing.empty() ? nullptr : library().missing.c_str();
}

void multiply(const Product& p) {
  if (plain_wanted()) return multiply_plainly(p);
  if (const char* why = library_missing()) fail_with(std::string("CUDA, gemm: ") + why);
  const Choice& choice = choice_for(p);
  if (!choice.found) return multiply_plainly(p);
  const float one = 1, beta = p.accumulate ? 1 : 0;
  check(library().matmul(handle(), choice.desc, &one, p.a.data, choice.a, p.b.data, choice.b, &beta, p.c.data, choice.c, p.c.data, choice.c, &choice.algo,
                         p.workspace, p.workspace_bytes, device().stream()),
        "cublasLtMatmul");
  if (device().synchronous()) device().synchronize();
}

}  // namespace attune::ops::cuda
