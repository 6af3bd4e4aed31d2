// The plug-in's face: one table, and two C symbols through which a program that knows nothing of CUDA gets it.
#include <cstdio>

#include "ops/cuda/device.h"
#include "ops/cuda/gemm_plan.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

Device& the_device() { return device(); }
int64_t threads() { return kParts; }

// Singular vectors are left to the host.
constexpr Backend kTable{
    .name = "cuda",
    .device = the_device,
    .threads = threads,
    .gemm_workspace = gemm_workspace,
    .gemm = gemm,
    .attention_workspace = attention_workspace,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .rope = rope,
    .rope_table = rope_table,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .add = add,
    .add_bias = add_bias,
    .sum_rows = sum_rows,
    .scale = scale,
    .fill_zero = fill_zero,
    .gather_rows = gather_rows,
    .scatter_rows = scatter_rows,
    .dropout = dropout,
    .dequantize = dequantize,
    .quantized_product = quantized_product,
    .quantized_product_rows = kMostProductRows,
    .token_logprob = token_logprob,
    .logprob_slab = logprob_slab,
    .finish_logprob = finish_logprob,
    .logit_gradient = logit_gradient,
    .inverse_row_norms = inverse_row_norms,
    .scale_columns = scale_columns,
    .project_rows = project_rows,
    .softcap = softcap,
    .softcap_backward = softcap_backward,
    .embedding_noise = embedding_noise,
    .adapted_row_norms = adapted_row_norms,
    .magnitude_forward = magnitude_forward,
    .magnitude_backward = magnitude_backward,
    .adam = adam,
    .sgd = sgd,
    .lion = lion,
    .adafactor = adafactor,
    .adam_8bit = adam_8bit,
    .lion_8bit = lion_8bit,
    .random_projection = random_projection,
    .singular_vectors_workspace = nullptr,
    .singular_vectors = nullptr,
    .channel_sums = channel_sums,
    .apollo_factors = apollo_factors,
    .scaled_step = scaled_step,
    .squared_norm = squared_norm,
};

}  // namespace
}  // namespace attune::ops::cuda

extern "C" {

// The backend on this machine's GPU; where there is none, nullptr and in `why` what is missing.
__attribute__((visibility("default"))) const attune::ops::Backend* attune_cuda_backend(char* why, size_t size) {
  const char* reason = attune::ops::cuda::unavailable();
  if (!reason) reason = attune::ops::cuda::library_missing();
  if (reason) {
    if (size) std::snprintf(why, size, "%s", reason);
    return nullptr;
  }
  return &attune::ops::cuda::kTable;
}

// The same table without a GPU, for dry mode: workspaces may be asked for; device() and every op throw.
__attribute__((visibility("default"))) const attune::ops::Backend* attune_cuda_backend_dry() { return &attune::ops::cuda::kTable; }

}  // extern "C"
