#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void rope(const Rope& a) {
  const int64_t n = a.x.rows.count, d = a.table.cols, half = d / 2;
  const auto* positions = a.positions.as<int32_t>();
  const float sign = a.backward ? -1.0f : 1.0f;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (a.x.count() > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float* c = a.table.row<float>(positions[i]);
      const float* s = c + half;
      for (int64_t h = 0; h < a.heads; ++h) {
        T* x = a.x.row<T>(i) + h * d;
        for (int64_t j = 0; j < half; ++j) {
          const float p = to_float(x[j]), q = to_float(x[j + half]), sine = sign * s[j];
          x[j] = from_float<T>(p * c[j] - q * sine);
          x[j + half] = from_float<T>(q * c[j] + p * sine);
        }
      }
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
