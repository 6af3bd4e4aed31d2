// Shared by the optimizer kernels: some elements of every tensor become fp32, are stepped, and are rounded back, as ops/cpu/sweep.h
// does with blocks. The rules know nothing of storage.
#pragma once

#include "ops/cuda/kernel.h"
#include "ops/optimizer.h"

namespace attune::ops::cuda {

// Stepped, as kernels take it. Tensors are flat here: one row.
struct Step {
  View parameter, copy, gradient, anchor;
  float grad_scale, lr, weight_decay, anchor_decay;
  bool decoupled;
  uint64_t rounding_key, first_element;

  Step(const Stepped& s)  // NOLINT: a kernel's way to see it
      : parameter(s.parameter), copy(s.copy), gradient(s.gradient), anchor(s.anchor), grad_scale(s.grad_scale), lr(s.lr), weight_decay(s.weight_decay),
        anchor_decay(s.anchor.defined() ? s.anchor_decay : 0.0f), decoupled(s.decoupled), rounding_key(s.rounding_key),
        first_element(static_cast<uint64_t>(s.first_element)) {}

  // bf16 is rounded stochastically, with one of four sequences of random bits: 0 the weight's, 1 to 3 those of its states.
  template <int N>
  __device__ void round(const float (&x)[N], const View& to, int64_t at, int sequence) const {
    if (to.dtype != DType::bf16) return store(x, to, 0, at);
    const uint64_t key = sequence < 2 ? rounding_key : mix_key(rounding_key, static_cast<uint64_t>(sequence / 2));
    const int shift = sequence % 2 ? 16 : 0;
    uint16_t y[N];
#pragma unroll
    for (int i = 0; i < N; ++i)
      y[i] = to_bf16_stochastic(x[i], element_bits(key, first_element + static_cast<uint64_t>(at + i)) >> shift).bits;
    auto* out = static_cast<uint16_t*>(to.data) + at;
    if constexpr (N == 1) {
      out[0] = y[0];
    } else {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = y[2 * i] | static_cast<uint32_t>(y[2 * i + 1]) << 16;
      *reinterpret_cast<uint4*>(out) = {words[0], words[1], words[2], words[3]};
    }
  }

  // Parameter decayed and gradient scaled.
  template <int N>
  __device__ void begin(int64_t at, float (&p)[N], float (&g)[N]) const {
    load(parameter, 0, at, p);
    load(gradient, 0, at, g);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] *= grad_scale;
    decay(at, p, g, lr);
  }
  template <int N>
  __device__ void decay(int64_t at, float (&p)[N], float (&g)[N], float rate) const {
    if (weight_decay == 0 && anchor_decay == 0) return;
    float toward[N] = {};
    if (anchor_decay != 0) load(anchor, 0, at, toward);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float before = p[i];
      if (!decoupled) {
        g[i] += weight_decay * before + anchor_decay * (before - toward[i]);
        continue;
      }
      p[i] = before * (1.0f - rate * weight_decay);
      if (anchor_decay != 0) p[i] -= rate * anchor_decay * (before - toward[i]);
    }
  }
  template <int N>
  __device__ void end(int64_t at, const float (&p)[N]) const {
    round(p, parameter, at, 0);
    if (copy.defined()) store(p, copy, 0, at);
  }
};

// Whether the flat tensors can be taken in wide pieces.
inline bool wide_step(const Stepped& s, std::initializer_list<Tensor> states) {
  const auto flat = [](Tensor t) {
    t.rows = Rows::exactly(1);
    return t;
  };
  bool all = wide(s.parameter.count(), {flat(s.parameter), flat(s.copy), flat(s.gradient), flat(s.anchor)});
  for (const Tensor& t : states) all = all && wide(s.parameter.count(), {flat(t)});
  return all;
}

// rule.at<N>(0, element) for all elements of the parameter.
template <class F>
void sweep(const char* op, const Stepped& s, std::initializer_list<Tensor> states, const F& rule) {
  over_elements(op, 1, s.parameter.count(), wide_step(s, states), rule);
}

}  // namespace attune::ops::cuda
