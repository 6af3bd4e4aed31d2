#include "ops/blas/provider.h"

#include <cstdlib>
#include <string>

#include "util/error.h"

namespace attune::ops {

Bf16Provider bf16_provider() {
  static const Bf16Provider provider = [] {
    const char* set = std::getenv("ATTUNE_BF16_GEMM");
    const std::string name = set ? set : "";
    if (name.empty()) return Bf16Provider::automatic;
    if (name == "onednn") return Bf16Provider::onednn;
    if (name == "convert") return Bf16Provider::convert;
    if (name == "own") return Bf16Provider::own;
    refuse("ATTUNE_BF16_GEMM={}: known are onednn, convert and own", name);
  }();
  return provider;
}

void refuse_own_bf16() {
  refuse("ATTUNE_BF16_GEMM=own: the kernels in use have no bf16 product; that takes a processor with AVX512-BF16 "
         "and, if ATTUNE_ISA is set, avx512_bf16");
}

}  // namespace attune::ops
