// Shared by the CPU kernels. Each .cpp here is compiled once per instruction set into its own namespace, so nothing
// with external linkage may be defined outside of it (scripts/check_isa.sh looks), and nothing here throws.
#pragma once

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/backend.h"

namespace attune::ops::cpu::ATTUNE_ISA {

template <class T>
[[gnu::always_inline]] inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else if constexpr (std::is_same_v<T, Float16>) return to_f16(x);
  else return to_bf16(x);
}

// Calls f(T{}) with the element type of the tensor.
template <class F>
[[gnu::always_inline]] inline void with_type(DType dtype, F&& f) {
  if (dtype == DType::bf16) f(BFloat16{});
  else if (dtype == DType::f16) f(Float16{});
  else f(float{});
}

// eˣ, at most 2 ulp off in the range of softmax (x ≤ 88; below −87 it is 0). Plain arithmetic: loops over it vectorise.
[[gnu::always_inline]] inline float fast_exp(float x) {
  const float clamped = std::min(std::max(x, -87.3f), 88.0f);
  const float n = std::nearbyintf(clamped * 1.44269504f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.3f ? 0.0f : p * scale;
}

// tanh, to about 3e-7 of its size. Plain arithmetic: loops over it vectorise.
[[gnu::always_inline]] inline float fast_tanh(float x) {
  const float squared = x * x;
  const float small = x * (1.0f + squared * (-1.0f / 3 + squared * (2.0f / 15 + squared * (-17.0f / 315))));
  const float large = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
  return squared < 0.04f ? small : large;
}

// Rows [begin, end) of this thread: fixed ranges, so partial sums are added in one order.
struct ThreadRange {
  int64_t begin, end;
  int thread, threads;
};
[[gnu::always_inline]] inline ThreadRange thread_range(int64_t n) {
  const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
  return {n * thread / threads, n * (thread + 1) / threads, thread, threads};
}

// Below this many elements a loop stays on one thread.
inline constexpr int64_t kParallelElements = 16384;

void gemm(const GemmCall&);
uint64_t gemm_workspace(const Gemm&);
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
// Without registers for a block's sixteen numbers there is nothing to gain.
#if defined(__AVX512F__)
inline constexpr int64_t kQuantizedProductRows = kMostProductRows;
#else
inline constexpr int64_t kQuantizedProductRows = 0;
#endif
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
uint64_t singular_vectors_workspace(const SingularVectors&);
void singular_vectors(const SingularVectors&);
void channel_sums(const ChannelSums&);
void apollo_factors(const ApolloFactors&);
void scaled_step(const ScaledStep&);
void squared_norm(const SquaredNorm&);

}  // namespace attune::ops::cpu::ATTUNE_ISA
