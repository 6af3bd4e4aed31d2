#include "ops/cuda/ops.h"
#include "ops/cuda/sweep.h"

namespace attune::ops::cuda {
namespace {

struct AdamRule {
  Step of;
  View m, v, highest;
  float step, unbiased, beta1, beta2, eps;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    float p[N], g[N], first[N], second[N];
    of.begin(i, p, g);
    load(m, 0, i, first);
    load(v, 0, i, second);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      first[k] = beta1 * first[k] + (1.0f - beta1) * g[k];
      second[k] = beta2 * second[k] + (1.0f - beta2) * g[k] * g[k];
    }
    of.round(first, m, i, 1);
    of.round(second, v, i, 2);
    if (highest.defined()) {
      float most[N];
      load(highest, 0, i, most);
#pragma unroll
      for (int k = 0; k < N; ++k) second[k] = second[k] < most[k] ? most[k] : second[k];
      of.round(second, highest, i, 3);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) p[k] = p[k] - step * first[k] * (1.0f / (sqrtf(second[k]) * unbiased + eps));
    of.end(i, p);
  }
};

struct SgdRule {
  Step of;
  View buffer;
  float momentum;
  bool nesterov, first;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    float p[N], g[N];
    of.begin(i, p, g);
    if (buffer.defined()) {
      float b[N];
      load(buffer, 0, i, b);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        b[k] = first ? g[k] : momentum * b[k] + g[k];
        p[k] -= of.lr * (nesterov ? g[k] + momentum * b[k] : b[k]);
      }
      of.round(b, buffer, i, 1);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) p[k] -= of.lr * g[k];
    }
    of.end(i, p);
  }
};

struct LionRule {
  Step of;
  View m;
  float beta1, beta2;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    float p[N], g[N], first[N];
    of.begin(i, p, g);
    load(m, 0, i, first);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float c = beta1 * first[k] + (1.0f - beta1) * g[k];
      p[k] -= of.lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
      first[k] = beta2 * first[k] + (1.0f - beta2) * g[k];
    }
    of.round(first, m, i, 1);
    of.end(i, p);
  }
};

// One CUDA block a block of elements.
template <int N>
__global__ void __launch_bounds__(kThreads) square_block(View x, int64_t count, double* partial) {
  const int64_t begin = blockIdx.x * kSquaredNormBlock, end = min(count, begin + kSquaredNormBlock);
  double sum = 0;
  for (int64_t i = begin + threadIdx.x * N; i < end; i += kThreads * N) {
    float value[N];
    load(x, 0, i, value);
    float part = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) part += value[k] * value[k];
    sum += part;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_up(const double* partial, int64_t count, double* sum) {
  double mine = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) mine += partial[i];
  mine = block_sum(mine);
  if (threadIdx.x == 0) *sum = mine;
}

}  // namespace

void adam(const Adam& a) {
  sweep("adam", a.of, {a.m, a.v, a.highest},
        AdamRule{a.of, a.m, a.v, a.highest, a.of.lr / a.correction1, 1.0f / sqrtf(a.correction2), a.beta1, a.beta2, a.eps});
}

void sgd(const Sgd& a) { sweep("sgd", a.of, {a.buffer}, SgdRule{a.of, a.buffer, a.momentum, a.nesterov, a.first}); }

void lion(const Lion& a) { sweep("lion", a.of, {a.m}, LionRule{a.of, a.m, a.beta1, a.beta2}); }

void squared_norm(const SquaredNorm& a) {
  const int64_t count = a.x.count();
  const unsigned n = blocks(count, kSquaredNormBlock);
  Tensor flat = a.x;
  flat.rows = Rows::exactly(1);
  launch("squared_norm", {{n, 1, 1}, {kThreads, 1, 1}}, wide(count, {flat}) ? square_block<kWide> : square_block<1>, a.x, count, a.partial);
  launch("squared_norm", {{1, 1, 1}, {kThreads, 1, 1}}, add_up, a.partial, static_cast<int64_t>(n), a.sum);
}

}  // namespace attune::ops::cuda
