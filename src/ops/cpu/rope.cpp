#include "ops/cpu/lanes.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void rope(const Rope& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols / a.heads, half = a.table.cols / 2;
  const auto* positions = a.positions.defined() ? a.positions.as<int32_t>() : nullptr;
  const float sign = a.backward ? -1.0f : 1.0f;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (a.x.count() > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const float* c = a.table.row<float>(positions ? positions[i] : i);
      const float* s = c + half;
      for (int64_t h = 0; h < a.heads; ++h) {
        T* x = a.x.row<T>(i) + h * d;
        over(half, [&](int64_t j, auto part) {
          const Floats p = part.load(x + j), q = part.load(x + j + half), cosine = part.load(c + j), sine = sign * part.load(s + j);
          part.store(p * cosine - q * sine, x + j);
          part.store(q * cosine + p * sine, x + j + half);
        });
      }
    }
  });
}

void rope_table(const RopeTable& a) {
  const int64_t half = a.table.cols / 2, sequences = a.cu_seqlens.cols - 1;
  const auto* cu = a.cu_seqlens.as<int32_t>();
  const double r = static_cast<double>(a.table.cols);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t length = cu[s + 1] - cu[s];
    const bool stretched = length > a.limit;
    const double ratio = a.factor * static_cast<double>(length) / static_cast<double>(a.limit) - (a.factor - 1);
    const double theta = a.theta * std::pow(ratio, r / (r - 2));
    for (int64_t j = 0; j < half; ++j) {
      float f = a.frequency[j];
      if (stretched)
        f = a.long_frequency ? a.long_frequency[j] : static_cast<float>(1 / std::pow(theta, static_cast<double>(2 * j) / r));
      for (int64_t i = cu[s]; i < cu[s + 1]; ++i) {
        const float angle = static_cast<float>(i - cu[s]) * f;
        a.table.row<float>(i)[j] = a.scale * std::cos(angle);
        a.table.row<float>(i)[j + half] = a.scale * std::sin(angle);
      }
    }
  }
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
