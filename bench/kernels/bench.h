// What the parts of bench_kernels share: operands, options, and how a sample is shown.
#pragma once

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "measure.h"
#include "tensor/arena.h"

namespace attune::bench_kernels {

struct Memory {
  Memory(DType dtype, int64_t rows, int64_t cols, uint64_t seed) : bytes(static_cast<size_t>(rows * cols) * size_of(dtype) + 64) {
    char* aligned = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64);
    tensor = Tensor::matrix(aligned, dtype, rows, cols);
    uint64_t state = seed;
    for (int64_t i = 0; i < rows * cols; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const float x = static_cast<float>(state >> 40) * 0x1p-24f - 0.5f;
      if (dtype == DType::bf16) tensor.as<BFloat16>()[i] = to_bf16(x);
      else tensor.as<float>()[i] = x;
    }
  }
  std::vector<char> bytes;
  Tensor tensor;
};

struct Options {
  int rounds = 9;
  std::vector<int64_t> m;
  std::vector<std::string> what;
  std::string layer;  // only layers whose name holds this
  bool wants(const char* name) const { return what.empty() || std::find(what.begin(), what.end(), name) != what.end(); }
};

inline std::string show(const Sample& s) { return fmt::format("{:5.0f} ({:3.0f} %)", s.rate / 1e9, 100 * s.share); }

inline Arena& arena() {
  static Arena arena(Place::host(), uint64_t{512} << 20);
  return arena;
}

// Each part prints its table.
void streams(const Options& options);     // norms, activations, rotary embedding, loss: beside axpy
void optimizers(const Options& options);  // sweeps: beside axpy
void head(const Options& options);        // head and loss: beside their three products

}  // namespace attune::bench_kernels
