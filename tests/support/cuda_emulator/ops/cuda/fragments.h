// Tensor cores for the emulator: the functions of src/ops/cuda/fragments.h, found before it.
#pragma once

#include <cuda_runtime.h>

#include "tensor/dtype.h"

namespace attune::ops::cuda {

namespace emulated {

template <class T>
float number(uint32_t word, int half) {
  return to_float(T{static_cast<uint16_t>(word >> 16 * half)});
}

// The addresses that the lanes bring.
inline const uint16_t* const* rows(const void* mine, const uint16_t* (&all)[32]) {
  if (reinterpret_cast<uintptr_t>(mine) % 16 != 0) cuda_emulator::fail("a row of a matrix load is not aligned to 16 bytes");
  const cuda_emulator::Slot* slots = cuda_emulator::exchange(&mine, sizeof mine);
  for (int i = 0; i < 32; ++i) std::memcpy(&all[i], slots[i].bytes, sizeof mine);
  return all;
}

}  // namespace emulated

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const cuda_emulator::Slot* all = cuda_emulator::exchange(mine, sizeof mine);
  const int g = cuda_emulator::lane() / 4, t = cuda_emulator::lane() % 4;
  const auto word = [&](int lane, int i) {
    uint32_t w;
    std::memcpy(&w, all[lane].bytes + 4 * i, sizeof w);
    return w;
  };
  float left[2][16], right[2][16];
  for (int k = 0; k < 16; ++k)
    for (int h = 0; h < 2; ++h) {
      left[h][k] = emulated::number<T>(word(4 * g + k % 8 / 2, h + k / 8 * 2), k % 2);
      right[h][k] = emulated::number<T>(word(4 * (2 * t + h) + k % 8 / 2, 4 + k / 8), k % 2);
    }
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 16; ++k) c[e] += left[e / 2][k] * right[e % 2][k];
}

template <class T>
uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<T, BFloat16>) return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
  else return to_f16(low).bits | static_cast<uint32_t>(to_f16(high).bits) << 16;
}

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint16_t* all[32];
  emulated::rows(row, all);
  const int g = cuda_emulator::lane() / 4, t = cuda_emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) r[i] = all[8 * i + g][2 * t] | static_cast<uint32_t>(all[8 * i + g][2 * t + 1]) << 16;
}

inline void load_transposed(uint32_t (&r)[4], const void* row) {
  const uint16_t* all[32];
  emulated::rows(row, all);
  const int g = cuda_emulator::lane() / 4, t = cuda_emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) r[i] = all[8 * i + 2 * t][g] | static_cast<uint32_t>(all[8 * i + 2 * t + 1][g]) << 16;
}

}  // namespace attune::ops::cuda
