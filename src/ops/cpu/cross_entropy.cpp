#include "ops/cpu/lanes.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr int64_t kBlock = 1024;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// max z and Σ exp(z − max) so far. Memory is read once: what is there already is scaled where a block holds a higher z. Blocks
// are added up in double: the sum over 150k words keeps its digits.
struct SumOfExp {
  float highest = -kInfinity;
  double sum = 0;

  void add(const float* z, int64_t n) {
    for (int64_t j = 0; j < n; j += kBlock) add_block(z + j, std::min(kBlock, n - j));
  }
  void add_block(const float* z, int64_t n) {
    Floats top = broadcast(highest);
    over(n, [&](int64_t j, auto part) { top = at_least(part.load(z + j, -kInfinity), top); });
    const float higher = highest_of(top);
    if (higher != highest) {
      sum *= std::exp(highest - higher);
      highest = higher;
    }
    Floats block{};
    over(n, [&](int64_t j, auto part) {
      fetch(z + j + kBlock);
      block += exp(part.load(z + j, -kInfinity) - highest);
    });
    sum += sum_of(block);
  }
};

double sum_of_row(const float* z, int64_t n) {
  double sum = 0;
  for (int64_t j = 0; j < n; j += kBlock) {
    Floats block{};
    over(std::min(kBlock, n - j), [&](int64_t l, auto part) { block += part.load(z + j + l); });
    sum += sum_of(block);
  }
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
    SumOfExp all;
    all.add(z, vocab);
    const float lse = all.highest + static_cast<float>(std::log(all.sum));
    write_row(a, i, {all.highest, z[labels[i]], lse, a.smoothing > 0 ? sum_of_row(z, vocab) / static_cast<double>(vocab) : 0.0});
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
      state[SlabColumn::highest] = -kInfinity;
    }
    SumOfExp all{state[SlabColumn::highest], state[SlabColumn::sum]};
    all.add(z, words);
    if (!(all.highest <= state[SlabColumn::highest]))  // true for a NaN too
      state[SlabColumn::top] = static_cast<float>(a.first + (std::max_element(z, z + words) - z));
    state[SlabColumn::highest] = all.highest;
    state[SlabColumn::sum] = static_cast<float>(all.sum);
    state[SlabColumn::total] += static_cast<float>(sum_of_row(z, words));
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
      const float lse = a.lse.as<float>()[i];
      const float c = a.coefficient.as<float>()[i] * (a.weight_logp.defined() ? std::exp(a.weight_logp.as<float>()[i]) : 1.0f);
      const float everywhere = a.smoothing / static_cast<float>(a.vocab);
      const int64_t label = labels[i] - a.first;
      int64_t top = -1;
      if (a.z_loss != 0)
        top = a.state.defined() ? static_cast<int64_t>(a.state.row<float>(i)[SlabColumn::top]) - a.first : std::max_element(z, z + words) - z;
      const bool has_label = label >= 0 && label < words, has_top = top >= 0 && top < words;
      const float label_logit = has_label ? z[label] : 0.0f, top_logit = has_top ? z[top] : 0.0f;
      // A bf16 result overtakes nothing: it is written behind what was read.
      over(words, [&](int64_t j, auto part) {
        fetch(z + j + kAhead);
        part.store(c * (exp(part.load(z + j) - lse) - everywhere), out + j);
      });
      if (has_label) out[label] = from_float<G>(c * (fast_exp(label_logit - lse) - everywhere - (1.0f - a.smoothing)));
      if (has_top)
        out[top] = from_float<G>(c * (fast_exp(top_logit - lse) - everywhere - (top == label ? 1.0f - a.smoothing : 0.0f)) +
                                 2.0f * c * a.z_loss * top_logit);
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
