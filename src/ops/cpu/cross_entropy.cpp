#include "ops/cpu/kernel.h"

#include <atomic>

namespace attune::ops::cpu::ATTUNE_ISA {

void token_logprob(const TokenLogprob& a) {
  const int64_t n = a.logits.rows.count, vocab = a.logits.cols;
  const auto* labels = a.labels.as<int32_t>();
#pragma omp parallel for schedule(static) if (n * vocab > kParallelElements)
  for (int64_t i = 0; i < n; ++i) {
    const float* z = a.logits.row<float>(i);
    float highest = z[0];
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < vocab; ++j) highest = std::max(highest, z[j]);
    // Blocks of fp32, summed in double: the sum over 150k words keeps its digits.
    double sum = 0;
    for (int64_t j = 0; j < vocab; j += 4096) {
      const int64_t end = std::min(vocab, j + 4096);
      float block = 0;
#pragma omp simd reduction(+ : block)
      for (int64_t l = j; l < end; ++l) block += fast_exp(z[l] - highest);
      sum += block;
    }
    const float lse = highest + static_cast<float>(std::log(sum));
    a.lse.as<float>()[i] = lse;
    const float label = z[labels[i]];
    if (a.correct.defined()) a.correct.as<float>()[i] = label >= highest ? 1.0f : 0.0f;
    double mean = 0;
    if (a.smoothing > 0) {
      for (int64_t j = 0; j < vocab; ++j) mean += z[j];
      mean /= static_cast<double>(vocab);
    }
    a.logp.as<float>()[i] = (1.0f - a.smoothing) * label + a.smoothing * static_cast<float>(mean) - lse - a.z_loss * highest * highest;
  }
}

void logit_gradient(const LogitGradient& a) {
  const int64_t n = a.logits.rows.count, vocab = a.logits.cols;
  const auto* labels = a.labels.as<int32_t>();
  with_type(a.dtype, [&](auto g0) {
    using G = decltype(g0);
#pragma omp parallel for schedule(static) if (n * vocab > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float* z = a.logits.row<float>(i);
      auto* out = reinterpret_cast<G*>(a.logits.row<float>(i));
      const float lse = a.lse.as<float>()[i], c = a.coefficient.as<float>()[i];
      const float label_logit = z[labels[i]], everywhere = a.smoothing / static_cast<float>(vocab);
      const int64_t top = a.z_loss != 0 ? std::max_element(z, z + vocab) - z : 0;
      const float pull = a.z_loss != 0 ? 2.0f * c * a.z_loss * z[top] : 0.0f, top_logit = z[top];
      constexpr int64_t kBlock = 256;
      float block[kBlock];  // a bf16 result overtakes nothing: it is written behind what was read
      for (int64_t j = 0; j < vocab; j += kBlock) {
        const int64_t w = std::min(kBlock, vocab - j);
        for (int64_t l = 0; l < w; ++l) block[l] = c * (fast_exp(z[j + l] - lse) - everywhere);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        for (int64_t l = 0; l < w; ++l) out[j + l] = from_float<G>(block[l]);
      }
      out[labels[i]] = from_float<G>(c * (fast_exp(label_logit - lse) - everywhere - (1.0f - a.smoothing)));
      if (a.z_loss != 0)
        out[top] = from_float<G>(c * (fast_exp(top_logit - lse) - everywhere - (top == labels[i] ? 1.0f - a.smoothing : 0.0f)) + pull);
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
