// Shared by the optimizer kernels: tensors are taken in blocks, a block is converted to fp32, stepped there and rounded
// back. The rules know nothing of storage.
#pragma once

#include "ops/cpu/lanes.h"
#include "util/rng.h"

namespace attune::ops::cpu::ATTUNE_ISA {

inline constexpr int64_t kBlock = 256;

struct Range {
  int64_t begin, n;
};

inline void load(const Tensor& t, Range r, float* out) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = t.as<T>() + r.begin;
    over(r.n, [&](int64_t i, auto part) {
      fetch(x + i + kBlock);  // the next block is on its way while this one is computed
      part.store(part.load(x + i), out + i);
    });
  });
}

// Where to compute on a block: in place where it is fp32, else on a copy that `store` brings back.
inline float* open(const Tensor& t, Range r, float* copy) {
  if (t.dtype != DType::f32) return load(t, r, copy), copy;
  return t.as<float>() + r.begin;
}

// Random words of a block, made when they are first asked for. Each word serves two tensors, 16 bits each.
class Noise {
 public:
  Noise(const Stepped& s, Range r) : key_(s.rounding_key), first_(static_cast<uint64_t>(s.first_element + r.begin)), n_(r.n) {}
  const uint32_t* words(int stream) {
    if (!made_[stream]) make(stream);
    return words_[stream];
  }

 private:
  void make(int stream) {
    const uint64_t key = stream == 0 ? key_ : mix_key(key_, static_cast<uint64_t>(stream));
    uint32_t* out = words_[stream];
    // Runs in which the upper half of the element's number stays the same: 32-bit arithmetic, which vectorises.
    for (int64_t i = 0; i < n_;) {
      const uint64_t first = first_ + static_cast<uint64_t>(i);
      const auto low = static_cast<uint32_t>(first);
      const auto run = static_cast<int64_t>(std::min<uint64_t>(static_cast<uint64_t>(n_ - i), (uint64_t{1} << 32) - low));
      const ElementBits random(key, first);
      for (int64_t j = 0; j < run; ++j) out[i + j] = random(low + static_cast<uint32_t>(j));
      i += run;
    }
    made_[stream] = true;
  }

  uint64_t key_, first_;
  int64_t n_;
  bool made_[2] = {};
  uint32_t words_[2][kBlock];
};

// bf16 is rounded stochastically, with one of four sequences of random bits: 0 the weight's, 1 to 3 those of its states.
inline void store(const float* in, const Tensor& t, Range r, Noise& noise, int sequence) {
  if (t.dtype != DType::bf16) {
    float* x = t.as<float>() + r.begin;
    if (x != in) std::memcpy(x, in, static_cast<size_t>(r.n) * sizeof(float));
    return;
  }
  auto* x = t.as<BFloat16>() + r.begin;
  const uint32_t* words = noise.words(sequence / 2);
  const uint32_t shift = sequence % 2 ? 16 : 0;
  int64_t i = 0;
  for (; i + kWidth <= r.n; i += kWidth) {
    const Halves rounded = to_bf16_stochastic(Whole::load(in + i), read<Words>(words + i) >> shift & 0xFFFFu);
    std::memcpy(static_cast<void*>(x + i), &rounded, sizeof rounded);
  }
  for (; i < r.n; ++i) x[i] = to_bf16_stochastic(in[i], words[i] >> shift);
}

inline void refresh(const float* p, const Tensor& copy, Range r) {
  if (!copy.defined()) return;
  with_type(copy.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* x = copy.as<T>() + r.begin;
    for (int64_t i = 0; i < r.n; ++i) x[i] = from_float<T>(p[i]);
  });
}

// Gradient scaled and parameter decayed, in fp32; returns where the parameter is stepped.
inline float* begin_block(const Stepped& s, Range r, float* copy, float* g) {
  float* p = open(s.parameter, r, copy);
  load(s.gradient, r, g);
  if (s.grad_scale != 1.0f)
    for (int64_t i = 0; i < r.n; ++i) g[i] *= s.grad_scale;
  const float decay = s.weight_decay, pull = s.anchor.defined() ? s.anchor_decay : 0.0f;
  if (decay == 0 && pull == 0) return p;
  float toward[kBlock];
  if (pull == 0 && s.decoupled) {
    const float kept = 1.0f - s.lr * decay;
    over(r.n, [&](int64_t i, auto part) { part.store(part.load(p + i) * kept, p + i); });
    return p;
  }
  if (pull != 0) load(s.anchor, r, toward);
  else std::fill(toward, toward + r.n, 0.0f);
  if (s.decoupled) {
    for (int64_t i = 0; i < r.n; ++i) p[i] = p[i] * (1.0f - s.lr * decay) - s.lr * pull * (p[i] - toward[i]);
  } else {
    for (int64_t i = 0; i < r.n; ++i) g[i] += decay * p[i] + pull * (p[i] - toward[i]);
  }
  return p;
}

inline void end_block(const Stepped& s, Range r, const float* p, Noise& noise) {
  store(p, s.parameter, r, noise, 0);
  refresh(p, s.copy, r);
}

// f(row, column, offset in the range, n) for each piece of a row in a range: rows begin and end inside of blocks.
template <class F>
[[gnu::always_inline]] inline void row_runs(Range r, int64_t cols, F&& f) {
  for (int64_t i = 0; i < r.n;) {
    const int64_t row = (r.begin + i) / cols, col = (r.begin + i) % cols, n = std::min(cols - col, r.n - i);
    f(row, col, i, n);
    i += n;
  }
}

// rule(range, p, g, noise) steps p; blocks are fixed, so every thread count gives the same bits.
template <class F>
void sweep(const Stepped& s, F&& rule) {
  const int64_t n = s.parameter.count();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t at = 0; at < n; at += kBlock) {
    const Range r{at, std::min(kBlock, n - at)};
    float copy[kBlock], g[kBlock];
    float* p = begin_block(s, r, copy, g);
    Noise noise(s, r);
    rule(r, p, g, noise);
    end_block(s, r, p, noise);
  }
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
