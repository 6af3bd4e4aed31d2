// fp32 → nf4, fp4 or int8 (tensor/quantized.h), once, when weights are loaded. Codes as bitsandbytes takes them: the nearest to
// w·(1/absmax), a tie going to the smaller number; an absmax below 1e-38 counts as that.
#pragma once

#include <vector>

#include "tensor/quantized.h"

namespace attune::ops {

// Rows one after the other, so that nobody needs a whole matrix in fp32.
class Quantizer {
 public:
  explicit Quantizer(const QuantizedMatrix& into) : into_(into), absmax_(into.how.double_quantization ? static_cast<size_t>(into.scales()) : 0) {}

  // A call brings a multiple of so many rows, whose blocks are whole, or all that are left.
  static constexpr int64_t kRows = kQuantBlock;
  // The next rows, [rows, cols]. False where a number is not finite; the matrix is of no use then.
  [[nodiscard]] bool add(const float* values, int64_t rows);
  // Behind the last row.
  void finish();

 private:
  QuantizedMatrix into_;
  std::vector<float> absmax_;  // of all blocks, until their mean is known (double quantization)
  int64_t row_ = 0;
};

}  // namespace attune::ops
