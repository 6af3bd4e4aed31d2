#include "ops/cpu/sweep.h"

namespace attune::ops::cpu::ATTUNE_ISA {

namespace {

// Σ f(range) over fixed blocks of `n` elements, added in order: the same for every thread count.
template <class F>
double sum_blocks(int64_t n, F&& f) {
  constexpr int64_t kSums = 64;
  const int64_t span = ((n + kSums - 1) / kSums + kBlock - 1) / kBlock * kBlock;
  double sums[kSums] = {};
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t part = 0; part < kSums; ++part)
    for (int64_t at = part * span; at < std::min(n, (part + 1) * span); at += kBlock)
      sums[part] += f(Range{at, std::min({kBlock, n - at, (part + 1) * span - at})});
  double total = 0;
  for (double s : sums) total += s;
  return total;
}

double squares(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// r and c: the moving means of g² over columns and rows, and the factors 1/√ that follow from them.
void factored_moments(const Adafactor& a, float* row_factor, float* col_factor) {
  const Tensor& g = a.of.gradient;
  const int64_t rows = a.of.parameter.rows.count, cols = a.of.parameter.cols;
  auto* r = a.rows.as<float>();
  auto* c = a.cols.as<float>();
#pragma omp parallel for schedule(static) if (rows * cols > kParallelElements)
  for (int64_t p = 0; p < Adafactor::kParts; ++p) {
    float* partial = a.partial.row<float>(p);
    std::fill(partial, partial + cols, 0.0f);
    float block[kBlock];
    for (int64_t i = rows * p / Adafactor::kParts; i < rows * (p + 1) / Adafactor::kParts; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < cols; j += kBlock) {
        const int64_t n = std::min(kBlock, cols - j);
        load(g, {i * cols + j, n}, block);
        for (int64_t l = 0; l < n; ++l) block[l] = a.of.grad_scale * block[l] * (a.of.grad_scale * block[l]) + a.eps;
        for (int64_t l = 0; l < n; ++l) partial[j + l] += block[l];
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t l = 0; l < n; ++l) part += block[l];
        sum += part;
      }
      r[i] = a.beta * r[i] + (1 - a.beta) * static_cast<float>(sum / static_cast<double>(cols));
    }
  }
  double mean = 0;
  for (int64_t i = 0; i < rows; ++i) mean += r[i];
  mean /= static_cast<double>(rows);
  for (int64_t j = 0; j < cols; ++j) {
    float sum = 0;
    for (int64_t p = 0; p < Adafactor::kParts; ++p) sum += a.partial.row<float>(p)[j];
    c[j] = a.beta * c[j] + (1 - a.beta) * sum / static_cast<float>(rows);
    col_factor[j] = 1.0f / std::sqrt(c[j]);
  }
  for (int64_t i = 0; i < rows; ++i) row_factor[i] = 1.0f / std::sqrt(r[i] / static_cast<float>(mean));
}

}  // namespace

void adafactor(const Adafactor& a) {
  const int64_t n = a.of.parameter.count(), cols = a.of.parameter.cols;
  float* row_factor = a.row_factor.as<float>();
  float* col_factor = a.col_factor.as<float>();
  if (!a.v.defined()) factored_moments(a, row_factor, col_factor);
  // The update in direction of the gradient, not yet clipped.
  const auto direction = [&](Range r, float* u) {
    load(a.of.gradient, r, u);
    for (int64_t i = 0; i < r.n; ++i) u[i] *= a.of.grad_scale;
    if (a.v.defined()) {
      const float* v = a.v.as<float>() + r.begin;
      for (int64_t i = 0; i < r.n; ++i) u[i] /= std::sqrt(v[i]);
      return;
    }
    row_runs(r, cols, [&](int64_t row, int64_t col, int64_t i, int64_t n) {
      for (int64_t l = 0; l < n; ++l) u[i + l] *= row_factor[row] * col_factor[col + l];
    });
  };
  if (a.v.defined()) {
    auto* v = a.v.as<float>();
    with_type(a.of.gradient.dtype, [&](auto zero) {
      const auto* g = a.of.gradient.template as<decltype(zero)>();
      for (int64_t i = 0; i < n; ++i) {
        const float x = a.of.grad_scale * to_float(g[i]);
        v[i] = a.beta * v[i] + (1 - a.beta) * (x * x + a.eps);
      }
    });
  }
  const double total = sum_blocks(n, [&](Range r) {
    float u[kBlock];
    direction(r, u);
    return squares(u, r.n);
  });
  float lr = a.of.lr;
  if (a.scale_parameter) {
    const double size = sum_blocks(n, [&](Range r) {
      float p[kBlock];
      load(a.of.parameter, r, p);
      return squares(p, r.n);
    });
    lr *= std::max(a.eps_scale, static_cast<float>(std::sqrt(size / static_cast<double>(n))));
  }
  Stepped s = a.of;
  s.lr = lr;
  const float rms = static_cast<float>(std::sqrt(total / static_cast<double>(n)));
  const float step = lr / std::max(1.0f, rms / a.clip_threshold);
  sweep(s, [&](Range r, float* p, float* u, Noise&) {
    direction(r, u);
    for (int64_t i = 0; i < r.n; ++i) p[i] -= step * u[i];
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
