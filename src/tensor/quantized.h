// Matrices held in 4 or 8 bits a number, laid out and scaled as bitsandbytes does (Dettmers et al. 2022, 2023):
//
//   nf4, fp4   blocks of 64 elements along the flattened matrix; w ≈ table[code]·absmax of the block. Two codes of 4 bits a
//              byte, the first element in the upper half.
//   int8       w ≈ code·absmax/127, absmax of the row (LLM.int8()).
//
// Double quantization (4 bits only) holds the blocks' absmax as 8-bit codes of their distance from their mean, in blocks of
// 256 (ops/dynamic_map.h). Bits a number: nf4 4.5, with double quantization 4.127; int8 8.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace attune {

enum class QuantType : uint8_t { none, nf4, fp4, int8 };

struct Quantization {
  QuantType type = QuantType::none;
  bool double_quantization = false;

  bool on() const { return type != QuantType::none; }
  bool four_bits() const { return type == QuantType::nf4 || type == QuantType::fp4; }
  double bits() const;  // of one number, scales included, in a large matrix
  bool operator==(const Quantization&) const = default;
};

// "none", "nf4", "fp4", "nf4-double", "fp4-double", "int8".
std::string text_of(const Quantization& how);
Quantization parse_quantization(const std::string& text, const std::string& where);

// Numbers by code; the largest magnitude is 1.
const std::array<float, 16>& code_table(QuantType type);

inline constexpr int64_t kQuantBlock = 64;       // elements that share a scale
inline constexpr int64_t kQuantScaleBlock = 256;  // scales that share one, with double quantization

// A view of one matrix in somebody else's memory. Before that is there, only `how` counts.
struct QuantizedMatrix {
  Quantization how;
  int64_t rows = 0, cols = 0;
  uint8_t* codes = nullptr;
  float* absmax = nullptr;        // of each block or, int8, row; with double quantization of 256 of `absmax_codes`, the mean behind them
  uint8_t* absmax_codes = nullptr;  // double quantization: of each block

  bool on() const { return how.on(); }
  int64_t count() const { return rows * cols; }
  int64_t scales() const { return how.type == QuantType::int8 ? rows : (count() + kQuantBlock - 1) / kQuantBlock; }
  int64_t scale_blocks() const { return (scales() + kQuantScaleBlock - 1) / kQuantScaleBlock; }
  float& mean() const { return absmax[scale_blocks()]; }

  // Memory for one of this shape, and one over such memory (64-byte aligned).
  static uint64_t bytes(const Quantization& how, int64_t rows, int64_t cols);
  static QuantizedMatrix over(void* memory, const Quantization& how, int64_t rows, int64_t cols);
  uint64_t bytes() const { return bytes(how, rows, cols); }
};

}  // namespace attune
