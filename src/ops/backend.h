// The table through which ops reach a device. A backend fills every entry; nothing else knows which device it is.
#pragma once

#include <span>
#include <string>

#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/dequantize.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/logit_transforms.h"
#include "ops/magnitude.h"
#include "ops/optimizer.h"
#include "ops/optimizer_blockwise.h"
#include "ops/optimizer_low_rank.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "tensor/device.h"

namespace attune::ops {

struct Backend {
  const char* name;  // "cpu (avx512)"
  Device& (*device)();  // where all tensors of a call lie
  int64_t (*threads)();  // that sum side by side: parts of a sum over rows

  uint64_t (*gemm_workspace)(const Gemm&);
  void (*gemm)(const GemmCall&);
  // f32 elements of workspace for one call with these capacities.
  int64_t (*attention_workspace)(const AttentionShape&, bool backward);
  void (*attention_forward)(const AttentionForward&);
  void (*attention_backward)(const AttentionBackward&);
  void (*embedding_forward)(const EmbeddingForward&);
  void (*embedding_backward)(const EmbeddingBackward&);
  void (*rms_norm_forward)(const RmsNormForward&);
  void (*rms_norm_backward)(const RmsNormBackward&);
  void (*rope)(const Rope&);
  void (*rope_table)(const RopeTable&);
  void (*swiglu_forward)(const SwigluForward&);
  void (*swiglu_backward)(const SwigluBackward&);
  void (*add)(const Add&);
  void (*add_bias)(const AddBias&);
  void (*sum_rows)(const SumRows&);
  void (*scale)(const Scale&);
  void (*fill_zero)(const Tensor&);
  void (*gather_rows)(const GatherRows&);
  void (*scatter_rows)(const ScatterRows&);
  void (*dropout)(const Dropout&);
  void (*dequantize)(const Dequantize&);
  void (*quantized_product)(const QuantizedProductCall&);
  int64_t quantized_product_rows;  // up to which it is faster than turning the matrix into numbers; 0: never
  void (*token_logprob)(const TokenLogprob&);
  void (*logprob_slab)(const LogprobSlab&);
  void (*finish_logprob)(const FinishLogprob&);
  void (*logit_gradient)(const LogitGradient&);
  void (*inverse_row_norms)(const InverseRowNorms&);
  void (*scale_columns)(const ScaleColumns&);
  void (*project_rows)(const ProjectRows&);
  void (*softcap)(const Softcap&);
  void (*softcap_backward)(const SoftcapBackward&);
  void (*embedding_noise)(const EmbeddingNoise&);
  void (*adapted_row_norms)(const AdaptedRowNorms&);
  void (*magnitude_forward)(const MagnitudeForward&);
  void (*magnitude_backward)(const MagnitudeBackward&);
  void (*adam)(const Adam&);
  void (*sgd)(const Sgd&);
  void (*lion)(const Lion&);
  void (*adafactor)(const Adafactor&);
  void (*adam_8bit)(const Adam8bit&);
  void (*lion_8bit)(const Lion8bit&);
  void (*random_projection)(const RandomProjection&);
  // Null: the dispatcher goes through the host.
  uint64_t (*singular_vectors_workspace)(const SingularVectors&);
  void (*singular_vectors)(const SingularVectors&);
  void (*channel_sums)(const ChannelSums&);
  void (*apollo_factors)(const ApolloFactors&);
  void (*scaled_step)(const ScaledStep&);
  void (*squared_norm)(const SquaredNorm&);
};

// The CPU backend for this processor; ATTUNE_ISA=portable|avx2|avx512|avx512_bf16 in the environment chooses a lower one.
const Backend& cpu_backend();
// All CPU backends this processor can run, the portable one first.
std::span<const Backend* const> cpu_backends();

// The GPU's, from the plug-in libattune_cuda.so beside the program. Null where there is no plug-in, driver or GPU, which `why`
// then says.
const Backend* cuda_backend(std::string* why = nullptr);
// What `device: auto | cpu | cuda` asks for; auto is the GPU where there is one.
const Backend& choose_backend(const std::string& device);
// The one that computes on `device`.
const Backend& backend_of(const Device& device);
// From here on `backend` is what auto and cuda mean: how tests get a device that is not the host.
void add_backend(const Backend& backend);

}  // namespace attune::ops
