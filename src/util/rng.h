// Counter-based randomness (Philox 4x32-10, Salmon et al. 2011): a value is a pure function of what it is for,
// so packing, sharding, recomputation and resuming cannot change it. What is constexpr may be called on a GPU too.
#pragma once

#include <array>
#include <cstdint>
#include <cmath>

namespace attune {

using PhiloxBlock = std::array<uint32_t, 4>;

// One block of four 32-bit words for a 64-bit key and a 128-bit counter.
constexpr PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  PhiloxBlock c{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Mixes any number of words into a key (SplitMix64 finaliser after each).
constexpr uint64_t mix_key(uint64_t a) {
  a += 0x9E3779B97F4A7C15ull;
  a = (a ^ (a >> 30)) * 0xBF58476D1CE4E5B9ull;
  a = (a ^ (a >> 27)) * 0x94D049BB133111EBull;
  return a ^ (a >> 31);
}
template <class... Rest>
constexpr uint64_t mix_key(uint64_t a, uint64_t b, Rest... rest) {
  return mix_key(mix_key(a) ^ b, rest...);
}

// 32 bits for one element of a tensor (two rounds of an avalanche hash): cheap enough for every weight at every step.
// Made for the elements that share the upper half of `element`, called with the lower half.
class ElementBits {
 public:
  [[gnu::always_inline]] constexpr ElementBits(uint64_t key, uint64_t element)
      : low_(static_cast<uint32_t>(key)),
        high_(static_cast<uint32_t>(key >> 32) + static_cast<uint32_t>(element >> 32) * 0x9E3779B9u) {}
  [[gnu::always_inline]] constexpr uint32_t operator()(uint32_t element) const {
    uint32_t x = element ^ low_;
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x ^= high_;
    x = (x ^ (x >> 15)) * 0x735A2D97u;
    x = (x ^ (x >> 15)) * 0x85EBCA6Bu;
    return x ^ (x >> 15);
  }

 private:
  uint32_t low_, high_;
};
[[gnu::always_inline]] constexpr uint32_t element_bits(uint64_t key, uint64_t element) {
  return ElementBits(key, element)(static_cast<uint32_t>(element));
}

// Uniform in [0, 1) with 24 bits.
constexpr float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1.0p-24f; }

// Two standard normal values from two words (Box–Muller).
inline std::array<float, 2> normal_pair(uint32_t a, uint32_t b) {
  const double u = (static_cast<double>(a) + 1.0) * 0x1.0p-32;
  const double v = static_cast<double>(b) * 0x1.0p-32 * 6.283185307179586;
  const double r = std::sqrt(-2.0 * std::log(u));
  return {static_cast<float>(r * std::cos(v)), static_cast<float>(r * std::sin(v))};
}

}  // namespace attune
