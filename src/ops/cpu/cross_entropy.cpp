#include "ops/cpu/kernel.h"

#include <atomic>

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

float highest_of(const float* z, int64_t n) {
  float highest = z[0];
#pragma omp simd reduction(max : highest)
  for (int64_t j = 0; j < n; ++j) highest = std::max(highest, z[j]);
  return highest;
}

// Blocks of fp32, summed in double: the sum over 150k words keeps its digits.
double sum_of_exp(const float* z, int64_t n, float highest) {
  double sum = 0;
  for (int64_t j = 0; j < n; j += 4096) {
    const int64_t end = std::min(n, j + 4096);
    float block = 0;
#pragma omp simd reduction(+ : block)
    for (int64_t l = j; l < end; ++l) block += fast_exp(z[l] - highest);
    sum += block;
  }
  return sum;
}

double sum_of(const float* z, int64_t n) {
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += z[j];
  return sum;
}

struct Known {
  float highest, label, lse;
  double mean;
};

template <class Args>
void write_row(const Args& a, int64_t i, const Known& row) {
  a.lse.template as<float>()[i] = row.lse;
  if (a.correct.defined()) a.correct.template as<float>()[i] = row.label >= row.highest ? 1.0f : 0.0f;
  a.logp.template as<float>()[i] =
      (1.0f - a.smoothing) * row.label + a.smoothing * static_cast<float>(row.mean) - row.lse - a.z_loss * row.highest * row.highest;
}

}  // namespace

void token_logprob(const TokenLogprob& a) {
  const int64_t n = a.logits.rows.count, vocab = a.logits.cols;
  const auto* labels = a.labels.as<int32_t>();
#pragma omp parallel for schedule(static) if (n * vocab > kParallelElements)
  for (int64_t i = 0; i < n; ++i) {
    const float* z = a.logits.row<float>(i);
    const float highest = highest_of(z, vocab);
    const float lse = highest + static_cast<float>(std::log(sum_of_exp(z, vocab, highest)));
    write_row(a, i, {highest, z[labels[i]], lse, a.smoothing > 0 ? sum_of(z, vocab) / static_cast<double>(vocab) : 0.0});
  }
}

void logprob_slab(const LogprobSlab& a) {
  const int64_t n = a.logits.rows.count, words = a.logits.cols;
  const auto* labels = a.labels.as<int32_t>();
#pragma omp parallel for schedule(static) if (n * words > kParallelElements)
  for (int64_t i = 0; i < n; ++i) {
    const float* z = a.logits.row<float>(i);
    float* state = a.state.row<float>(i);
    if (a.first == 0) {
      std::fill(state, state + SlabColumn::count, 0.0f);
      state[SlabColumn::highest] = -std::numeric_limits<float>::infinity();
    }
    const float before = state[SlabColumn::highest], highest = std::max(before, highest_of(z, words));
    if (!(highest <= before)) {  // true for a NaN too
      state[SlabColumn::top] = static_cast<float>(a.first + (std::max_element(z, z + words) - z));
      state[SlabColumn::sum] *= a.first == 0 ? 0.0f : std::exp(before - highest);
      state[SlabColumn::highest] = highest;
    }
    state[SlabColumn::sum] += static_cast<float>(sum_of_exp(z, words, highest));
    state[SlabColumn::total] += static_cast<float>(sum_of(z, words));
    if (labels[i] >= a.first && labels[i] < a.first + words) state[SlabColumn::label] = z[labels[i] - a.first];
  }
}

void finish_logprob(const FinishLogprob& a) {
  for (int64_t i = 0; i < a.state.rows.count; ++i) {
    const float* state = a.state.row<float>(i);
    const float highest = state[SlabColumn::highest];
    write_row(a, i, {highest, state[SlabColumn::label], highest + std::log(state[SlabColumn::sum]),
                     static_cast<double>(state[SlabColumn::total]) / static_cast<double>(a.vocab)});
  }
}

void logit_gradient(const LogitGradient& a) {
  const int64_t n = a.logits.rows.count, words = a.logits.cols;
  const auto* labels = a.labels.as<int32_t>();
  with_type(a.dtype, [&](auto g0) {
    using G = decltype(g0);
#pragma omp parallel for schedule(static) if (n * words > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float* z = a.logits.row<float>(i);
      auto* out = reinterpret_cast<G*>(a.logits.row<float>(i));
      const float lse = a.lse.as<float>()[i], c = a.coefficient.as<float>()[i];
      const float everywhere = a.smoothing / static_cast<float>(a.vocab);
      const int64_t label = labels[i] - a.first;
      int64_t top = -1;
      if (a.z_loss != 0)
        top = a.state.defined() ? static_cast<int64_t>(a.state.row<float>(i)[SlabColumn::top]) - a.first : std::max_element(z, z + words) - z;
      const bool has_label = label >= 0 && label < words, has_top = top >= 0 && top < words;
      const float label_logit = has_label ? z[label] : 0.0f, top_logit = has_top ? z[top] : 0.0f;
      constexpr int64_t kBlock = 256;
      float block[kBlock];  // a bf16 result overtakes nothing: it is written behind what was read
      for (int64_t j = 0; j < words; j += kBlock) {
        const int64_t w = std::min(kBlock, words - j);
        for (int64_t l = 0; l < w; ++l) block[l] = c * (fast_exp(z[j + l] - lse) - everywhere);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        for (int64_t l = 0; l < w; ++l) out[j + l] = from_float<G>(block[l]);
      }
      if (has_label) out[label] = from_float<G>(c * (fast_exp(label_logit - lse) - everywhere - (1.0f - a.smoothing)));
      if (has_top)
        out[top] = from_float<G>(c * (fast_exp(top_logit - lse) - everywhere - (top == label ? 1.0f - a.smoothing : 0.0f)) +
                                 2.0f * c * a.z_loss * top_logit);
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
