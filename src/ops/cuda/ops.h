// The entries of the table (ops/backend.h), one .cu a header of src/ops.
#pragma once

#include "ops/backend.h"

namespace attune::ops::cuda {

// Partial sums over rows: what the dispatchers take workspace for.
inline constexpr int64_t kParts = 512;

uint64_t gemm_workspace(const Gemm&);
void gemm(const GemmCall&);
int64_t attention_workspace(const AttentionShape&, bool backward);
void attention_forward(const AttentionForward&);
void attention_backward(const AttentionBackward&);
void embedding_forward(const EmbeddingForward&);
void embedding_backward(const EmbeddingBackward&);
void rms_norm_forward(const RmsNormForward&);
void rms_norm_backward(const RmsNormBackward&);
void rope(const Rope&);
void rope_table(const RopeTable&);
void swiglu_forward(const SwigluForward&);
void swiglu_backward(const SwigluBackward&);
void add(const Add&);
void add_bias(const AddBias&);
void sum_rows(const SumRows&);
void scale(const Scale&);
void fill_zero(const Tensor&);
void gather_rows(const GatherRows&);
void scatter_rows(const ScatterRows&);
void dropout(const Dropout&);
void dequantize(const Dequantize&);
void quantized_product(const QuantizedProductCall&);
void token_logprob(const TokenLogprob&);
void logprob_slab(const LogprobSlab&);
void finish_logprob(const FinishLogprob&);
void logit_gradient(const LogitGradient&);
void inverse_row_norms(const InverseRowNorms&);
void scale_columns(const ScaleColumns&);
void project_rows(const ProjectRows&);
void softcap(const Softcap&);
void softcap_backward(const SoftcapBackward&);
void embedding_noise(const EmbeddingNoise&);
void adapted_row_norms(const AdaptedRowNorms&);
void magnitude_forward(const MagnitudeForward&);
void magnitude_backward(const MagnitudeBackward&);
void adam(const Adam&);
void sgd(const Sgd&);
void lion(const Lion&);
void adafactor(const Adafactor&);
void adam_8bit(const Adam8bit&);
void lion_8bit(const Lion8bit&);
void random_projection(const RandomProjection&);
void channel_sums(const ChannelSums&);
void apollo_factors(const ApolloFactors&);
void scaled_step(const ScaledStep&);
void squared_norm(const SquaredNorm&);

}  // namespace attune::ops::cuda
