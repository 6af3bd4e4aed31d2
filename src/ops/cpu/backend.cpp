#include "ops/cpu/kernel.h"

#define ATTUNE_STRING_(x) #x
#define ATTUNE_STRING(x) ATTUNE_STRING_(x)

namespace attune::ops::cpu::ATTUNE_ISA {

static Device& device() { return host(); }
static int64_t threads() { return omp_get_max_threads(); }

const Backend& backend() {
  static constexpr Backend table{
      .name = "cpu (" ATTUNE_STRING(ATTUNE_ISA) ")",
      .device = device,
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
      .quantized_product_rows = kQuantizedProductRows,
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
      .singular_vectors_workspace = singular_vectors_workspace,
      .singular_vectors = singular_vectors,
      .channel_sums = channel_sums,
      .apollo_factors = apollo_factors,
      .scaled_step = scaled_step,
      .squared_norm = squared_norm,
  };
  return table;
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
