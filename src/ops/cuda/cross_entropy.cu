#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

// One block a row.
namespace attune::ops::cuda {
namespace {

constexpr int64_t kNowhere = INT64_MAX;

struct Lowest {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return b < a ? b : a; }
};

// What is known of a row, or of the part of it that a thread has seen. Sums are double: 150k words keep their digits.
struct Seen {
  float highest = -INFINITY;
  int64_t top = kNowhere;  // where `highest` is first
  double sum = 0;          // Σ exp(z − highest)
  double total = 0;        // Σ z

  template <int N>
  __device__ void add(const float (&z)[N], int64_t first) {
    float higher = highest;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (z[i] > higher) top = first + i;
      higher = Highest{}(higher, z[i]);
    }
    if (!(higher == highest)) {
      if (sum != 0) sum *= static_cast<double>(expf(highest - higher));
      highest = higher;
    }
    float part = 0, plain = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) part += expf(z[i] - higher), plain += z[i];
    sum += part;
    total += plain;
  }
};

// Of the whole row; every thread gets it.
template <int N>
__device__ Seen see_row(const View& logits, int64_t row, int64_t words) {
  Seen mine;
  for (int64_t j = threadIdx.x * N; j < words; j += kThreads * N) {
    float z[N];
    load(logits, row, j, z);
    mine.add(z, j);
  }
  Seen all;
  all.highest = block_reduce(mine.highest, -INFINITY, Highest{});
  all.top = block_reduce(mine.highest == all.highest ? mine.top : kNowhere, kNowhere, Lowest{});
  all.sum = block_sum(mine.sum == 0 ? 0.0 : mine.sum * static_cast<double>(expf(mine.highest - all.highest)));
  all.total = block_sum(mine.total);
  return all;
}

// Where the results of a row go.
struct Results {
  float *logp, *lse, *correct;
  float smoothing, z_loss;
  __device__ void write(int64_t i, float highest, float label, float log_sum, double mean) const {
    lse[i] = log_sum;
    if (correct) correct[i] = label >= highest ? 1.0f : 0.0f;
    logp[i] = (1.0f - smoothing) * label + smoothing * static_cast<float>(mean) - log_sum - z_loss * highest * highest;
  }
};
template <class Args>
Results results_of(const Args& a) {
  return {a.logp.template as<float>(), a.lse.template as<float>(), a.correct.template as<float>(), a.smoothing, a.z_loss};
}

template <int N>
__global__ void __launch_bounds__(kThreads) whole_rows(View logits, int64_t vocab, const int32_t* labels, Results results) {
  const int64_t i = blockIdx.x;
  const Seen all = see_row<N>(logits, i, vocab);
  if (threadIdx.x != 0) return;
  const float lse = all.highest + static_cast<float>(log(all.sum));
  results.write(i, all.highest, logits.row<float>(i)[labels[i]], lse, all.total / static_cast<double>(vocab));
}

template <int N>
__global__ void __launch_bounds__(kThreads) slab_rows(View logits, int64_t words, const int32_t* labels, View states, int64_t first) {
  const int64_t i = blockIdx.x;
  const Seen all = see_row<N>(logits, i, words);
  if (threadIdx.x != 0) return;
  float* state = states.row<float>(i);
  if (first == 0) {
    for (int64_t c = 0; c < SlabColumn::count; ++c) state[c] = 0;
    state[SlabColumn::highest] = -INFINITY;
  }
  const float before = state[SlabColumn::highest], highest = Highest{}(before, all.highest);
  double sum = 0;
  if (state[SlabColumn::sum] != 0) sum += static_cast<double>(state[SlabColumn::sum]) * static_cast<double>(expf(before - highest));
  if (all.sum != 0) sum += all.sum * static_cast<double>(expf(all.highest - highest));
  if (!(highest <= before)) state[SlabColumn::top] = static_cast<float>(first + (all.top == kNowhere ? 0 : all.top));
  state[SlabColumn::highest] = highest;
  state[SlabColumn::sum] = static_cast<float>(sum);
  state[SlabColumn::total] += static_cast<float>(all.total);
  if (labels[i] >= first && labels[i] < first + words) state[SlabColumn::label] = logits.row<float>(i)[labels[i] - first];
}

__global__ void __launch_bounds__(kThreads) finish_rows(View states, int64_t rows, int64_t vocab, Results results) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const float* state = states.row<float>(i);
  const float highest = state[SlabColumn::highest];
  results.write(i, highest, state[SlabColumn::label], highest + logf(state[SlabColumn::sum]),
                static_cast<double>(state[SlabColumn::total]) / static_cast<double>(vocab));
}

struct Gradient {
  View logits, out;  // one memory
  int64_t words;
  const int32_t* labels;
  const float *lse, *coefficient;
  View state;
  int64_t first;
  float everywhere, on_label, z_loss;
  const float* weight_logp;  // may be null
};

template <int N>
__global__ void __launch_bounds__(kThreads) gradient_rows(Gradient a) {
  const int64_t i = blockIdx.x, label = a.labels[i] - a.first;
  const float lse = a.lse[i], c = a.coefficient[i] * (a.weight_logp ? expf(a.weight_logp[i]) : 1.0f);
  int64_t top = -1;
  if (a.z_loss != 0)
    top = a.state.defined() ? static_cast<int64_t>(a.state.row<float>(i)[SlabColumn::top]) - a.first : see_row<N>(a.logits, i, a.words).top;
  // A 16-bit result lies on logits that come before those of its own round: written once all threads have read these.
  for (int64_t round = 0; round < a.words; round += kThreads * N) {
    const int64_t j = round + threadIdx.x * N;
    float z[N];
    if (j < a.words) load(a.logits, i, j, z);
    __syncthreads();
    if (j >= a.words) continue;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float g = c * (expf(z[k] - lse) - a.everywhere - (j + k == label ? a.on_label : 0.0f));
      if (j + k == top) g += 2.0f * c * a.z_loss * z[k];
      z[k] = g;
    }
    store(z, a.out, i, j);
  }
}

Shape block_rows(int64_t rows) { return {{static_cast<unsigned>(rows), 1, 1}, {kThreads, 1, 1}}; }

}  // namespace

void token_logprob(const TokenLogprob& a) {
  launch("token_logprob", block_rows(a.logits.rows.count), wide(a.logits.cols, {a.logits}) ? whole_rows<kWide> : whole_rows<1>, a.logits, a.logits.cols,
         a.labels.as<int32_t>(), results_of(a));
}

void logprob_slab(const LogprobSlab& a) {
  launch("logprob_slab", block_rows(a.logits.rows.count), wide(a.logits.cols, {a.logits}) ? slab_rows<kWide> : slab_rows<1>, a.logits, a.logits.cols,
         a.labels.as<int32_t>(), a.state, a.first);
}

void finish_logprob(const FinishLogprob& a) {
  launch("finish_logprob", {{blocks(a.state.rows.count, kThreads), 1, 1}, {kThreads, 1, 1}}, finish_rows, a.state, a.state.rows.count, a.vocab, results_of(a));
}

void logit_gradient(const LogitGradient& a) {
  Tensor out = a.logits;
  out.dtype = a.dtype;
  if (a.dtype != DType::f32) out.stride *= 2;
  const Gradient g{a.logits, out, a.logits.cols, a.labels.as<int32_t>(), a.lse.as<float>(), a.coefficient.as<float>(), a.state, a.first,
                   a.smoothing / static_cast<float>(a.vocab), 1.0f - a.smoothing, a.z_loss,
                   a.weight_logp.defined() ? a.weight_logp.as<float>() : nullptr};
  launch("logit_gradient", block_rows(a.logits.rows.count), wide(a.logits.cols, {a.logits, out}) ? gradient_rows<kWide> : gradient_rows<1>, g);
}

}  // namespace attune::ops::cuda
