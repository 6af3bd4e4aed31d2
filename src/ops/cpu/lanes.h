// Arithmetic on a register of floats, by the compiler's vector types: one text for every instruction set. For loops that the
// compiler does not vectorise by itself (operands that may be one memory) or not well (bf16).
#pragma once

#include "ops/cpu/kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace attune::ops::cpu::ATTUNE_ISA {

#if defined(__AVX512F__)
inline constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
inline constexpr int64_t kWidth = 8;
#else
inline constexpr int64_t kWidth = 4;
#endif

using Floats = float __attribute__((vector_size(4 * kWidth)));
using Words = uint32_t __attribute__((vector_size(4 * kWidth)));
using Halves = uint16_t __attribute__((vector_size(2 * kWidth)));

[[gnu::always_inline]] inline Floats broadcast(float x) { return Floats{} + x; }
template <class T>
[[gnu::always_inline]] inline T read(const void* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
[[gnu::always_inline]] inline Words bits_of(Floats x) { return std::bit_cast<Words>(x); }
[[gnu::always_inline]] inline Floats floats_of(Words x) { return std::bit_cast<Floats>(x); }

// The compiler's own conversion takes five instructions where there is one.
[[gnu::always_inline]] inline Words widened(Halves x) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32((__m256i)x);
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, Words);
#endif
}

// Of words below 2¹⁶.
[[gnu::always_inline]] inline Halves narrowed(Words x) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtepi32_epi16((__m512i)x);
#else
  return __builtin_convertvector(x, Halves);
#endif
}

// As std::max(x, bound) and std::min: a NaN in x stays.
[[gnu::always_inline]] inline Floats at_least(Floats x, Floats bound) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)bound, (__m512)x);
#else
  return x < bound ? bound : x;
#endif
}
[[gnu::always_inline]] inline Floats at_most(Floats x, Floats bound) {
#if defined(__AVX512F__)
  return (Floats)_mm512_min_ps((__m512)bound, (__m512)x);
#else
  return bound < x ? bound : x;
#endif
}

using attune::to_bf16, attune::to_bf16_stochastic;

// Round to nearest even. vcvtneps2bf16 takes subnormal numbers as 0.
[[gnu::always_inline]] inline Halves to_bf16(Floats x) {
#if defined(__AVX512BF16__)
  return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
  const Words u = bits_of(x);
  const Words rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
  return narrowed(x == x ? rounded : nan);
#endif
}

// As to_bf16_stochastic: `bits` are 16 random bits.
[[gnu::always_inline]] inline Halves to_bf16_stochastic(Floats x, Words bits) {
  const Words u = bits_of(x);
  return narrowed((x == x ? u + bits : u | 0x400000u) >> 16);
}

// A register's worth of elements, or what is left of a row: `beyond` stands behind its end, and nothing is written there.
struct Whole {
  template <class T>
  [[gnu::always_inline]] static Floats load(const T* p, T beyond = T{}) {
    if constexpr (std::is_same_v<T, float>) {
      return read<Floats>(p);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      return floats_of(widened(read<Halves>(p)) << 16);
    } else {
      float x[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) x[i] = to_float(p[i]);
      return load(x);
    }
  }
  template <class T>
  [[gnu::always_inline]] static void store(Floats x, T* p) {
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(p, &x, sizeof x);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      const Halves half = to_bf16(x);
      std::memcpy(static_cast<void*>(p), &half, sizeof half);
    } else {
      for (int64_t i = 0; i < kWidth; ++i) p[i] = from_float<T>(x[i]);
    }
  }
};
struct Part {
  int64_t n;
  template <class T>
  [[gnu::always_inline]] Floats load(const T* p, T beyond = T{}) const {
    T all[kWidth];
    std::fill(all, all + kWidth, beyond);
    std::memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
    return Whole::load(all);
  }
  template <class T>
  [[gnu::always_inline]] void store(Floats x, T* p) const {
    T all[kWidth];
    Whole::store(x, all);
    std::memcpy(static_cast<void*>(p), all, static_cast<size_t>(n) * sizeof(T));
  }
};

// What is computed on long enough that the hardware does not look far enough ahead by itself.
template <class T>
[[gnu::always_inline]] inline void fetch(const T* p) {
  __builtin_prefetch(p);
}
inline constexpr int64_t kAhead = 512;  // elements of one stream among several

// f(first element, Whole or Part) over n elements.
template <class F>
[[gnu::always_inline]] inline void over(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(i, Whole{});
  if (i < n) f(i, Part{n - i});
}

[[gnu::always_inline]] inline float sum_of(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float sum = 0;
  for (int64_t i = 0; i < kWidth; ++i) sum += x[i];
  return sum;
#endif
}
[[gnu::always_inline]] inline float highest_of(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float highest = x[0];
  for (int64_t i = 1; i < kWidth; ++i) highest = std::max(highest, x[i]);
  return highest;
#endif
}

// Σ f(first element, Whole or Part), in four sums so that one addition need not wait for another. `f` is zero behind the end.
template <class F>
[[gnu::always_inline]] inline float sum_over(int64_t n, F&& f) {
  Floats sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int64_t k = 0; k < 4; ++k) sum[k] += f(i + k * kWidth, Whole{});
  over(n - i, [&](int64_t j, auto part) { sum[0] += f(i + j, part); });
  return sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// eˣ to about an ulp, of what is at most 88; below −87 it is 0 (on AVX-512 subnormal down to −104).
[[gnu::always_inline]] inline Floats exp(Floats x) {
#if defined(__AVX512F__)
  const Floats bounded = at_most(at_least(x, broadcast(-104.0f)), broadcast(88.0f));
  const Floats n = (Floats)_mm512_roundscale_ps((__m512)(bounded * 1.44269504f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  constexpr float kRound = 12582912.0f;  // 1.5·2²³: what is added to it is rounded to a whole number, in its last bits
  const Floats bounded = at_most(at_least(x, broadcast(-87.3f)), broadcast(88.0f));
  const Floats shifted = bounded * 1.44269504f + kRound, n = shifted - kRound;
#endif
  const Floats r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  // 1 + r + r²·q(r) with the smallest relative error (4e-9) for |r| ≤ ln 2 / 2.
  Floats q = r * 1.381459848e-3f + 8.368716887e-3f;
  q = q * r + 4.166838805e-2f;
  q = q * r + 1.666652063e-1f;
  q = q * r + 4.999999345e-1f;
  const Floats p = q * (r * r) + (r + 1.0f);
#if defined(__AVX512F__)
  return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const Floats y = p * floats_of((bits_of(shifted) + 127u) << 23);
  return x < -87.3f ? Floats{} : y;
#endif
}

// 1/x to about an ulp, for 2⁻¹²⁶ ≤ x ≤ 2¹²⁶.
[[gnu::always_inline]] inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
  const Floats y = (Floats)_mm512_rcp14_ps((__m512)x);
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

[[gnu::always_inline]] inline Floats square_root(Floats x) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)x);
#else
  Floats y;
  for (int64_t i = 0; i < kWidth; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

// fast_tanh of each.
[[gnu::always_inline]] inline Floats tanh(Floats x) {
  const Floats squared = x * x;
  const Floats small = x * (1.0f + squared * (-1.0f / 3 + squared * (2.0f / 15 + squared * (-17.0f / 315))));
  const Floats large = 1.0f - 2.0f * reciprocal(exp(2.0f * x) + 1.0f);
  return squared < 0.04f ? small : large;
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
