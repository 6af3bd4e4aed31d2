#include "ops/blas/eigen.h"
#include "ops/cpu/sweep.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void random_projection(const RandomProjection& a) {
  const int64_t n = a.out.count();
  const float deviation = 1.0f / std::sqrt(static_cast<float>(a.out.rows.count));
  with_type(a.out.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* out = a.out.as<T>();
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < n; at += 4) {
      const PhiloxBlock words = philox(a.key, static_cast<uint64_t>(at / 4), 0);
      const auto first = normal_pair(words[0], words[1]), second = normal_pair(words[2], words[3]);
      const float normal[4] = {first[0], first[1], second[0], second[1]};
      for (int64_t i = 0; i < std::min<int64_t>(4, n - at); ++i) out[at + i] = from_float<T>(deviation * normal[i]);
    }
  });
}

uint64_t singular_vectors_workspace(const SingularVectors& a) { return eigen::workspace(a); }
void singular_vectors(const SingularVectors& a) { eigen::singular_vectors(a); }

namespace {

void row_sums(const ChannelSums& a) {
  const int64_t rows = a.gradient.rows.count, cols = a.gradient.cols;
  const float* direction = a.direction.as<float>();
#pragma omp parallel for schedule(static) if (rows * cols > kParallelElements)
  for (int64_t i = 0; i < rows; ++i) {
    double squares = 0, products = 0;
    float g[kBlock];
    for (int64_t j = 0; j < cols; j += kBlock) {
      const int64_t n = std::min(kBlock, cols - j);
      load(a.gradient, {i * cols + j, n}, g);
      float square = 0, product = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t l = 0; l < n; ++l) square += g[l] * g[l];
      squares += square;
      if (!direction) continue;
#pragma omp simd reduction(+ : product)
      for (int64_t l = 0; l < n; ++l) product += g[l] * direction[j + l];
      products += product;
    }
    a.squares.as<float>()[i] = static_cast<float>(squares);
    if (direction) a.products.as<float>()[i] = static_cast<float>(products);
  }
}

// A part of the rows and a strip of the columns at a time; the parts are fixed and added in order.
void column_sums(const ChannelSums& a) {
  constexpr int64_t kStrip = 256, kParts = ChannelSums::kParts;
  const int64_t rows = a.gradient.rows.count, cols = a.gradient.cols, strips = (cols + kStrip - 1) / kStrip;
  const float* direction = a.direction.as<float>();
#pragma omp parallel for collapse(2) schedule(static) if (rows * cols > kParallelElements)
  for (int64_t part = 0; part < kParts; ++part)
    for (int64_t strip = 0; strip < strips; ++strip) {
      const int64_t begin = strip * kStrip, n = std::min(kStrip, cols - begin);
      float* squares = a.partial.row<float>(part) + begin;
      float* products = a.partial.row<float>(kParts + part) + begin;
      std::fill(squares, squares + n, 0.0f);
      std::fill(products, products + n, 0.0f);
      float g[kStrip];
      for (int64_t i = rows * part / kParts; i < rows * (part + 1) / kParts; ++i) {
        load(a.gradient, {i * cols + begin, n}, g);
        for (int64_t j = 0; j < n; ++j) squares[j] += g[j] * g[j];
        if (!direction) continue;
        const float weight = direction[i];
        for (int64_t j = 0; j < n; ++j) products[j] += weight * g[j];
      }
    }
  for (int64_t j = 0; j < cols; ++j) {
    float square = 0, product = 0;
    for (int64_t part = 0; part < kParts; ++part) {
      square += a.partial.row<float>(part)[j];
      product += a.partial.row<float>(kParts + part)[j];
    }
    a.squares.as<float>()[j] = square;
    if (direction) a.products.as<float>()[j] = product;
  }
}

}  // namespace

void channel_sums(const ChannelSums& a) {
  if (a.columns) column_sums(a);
  else row_sums(a);
}

void apollo_factors(const ApolloFactors& a) {
  const int64_t channels = a.factors.cols, rank = a.low.count() / channels;
  const int64_t next_channel = a.columns ? 1 : rank, next_rank = a.columns ? channels : 1;
  const float* low = a.low.as<float>();
  auto *m = a.m.as<float>(), *v = a.v.as<float>(), *factors = a.factors.as<float>();
  constexpr int64_t kParts = 64;
  double moved[kParts] = {}, seen[kParts] = {};
#pragma omp parallel for schedule(static) if (channels * rank > kParallelElements)
  for (int64_t part = 0; part < kParts; ++part)
    for (int64_t c = channels * part / kParts; c < channels * (part + 1) / kParts; ++c) {
      double update = 0, gradient = 0;
      for (int64_t k = 0; k < rank; ++k) {
        const int64_t at = c * next_channel + k * next_rank;
        const float g = a.grad_scale * low[at];
        m[at] = a.beta1 * m[at] + (1.0f - a.beta1) * g;
        v[at] = a.beta2 * v[at] + (1.0f - a.beta2) * g * g;
        const float u = m[at] / (std::sqrt(v[at]) + a.eps);
        update += u * u;
        gradient += g * g;
      }
      moved[part] += update;
      seen[part] += gradient;
      factors[c] = static_cast<float>(std::sqrt(update) / (std::sqrt(gradient) + 1e-8));
    }
  double update = 0, gradient = 0, square = 0;
  for (int64_t part = 0; part < kParts; ++part) update += moved[part], gradient += seen[part];
  const auto whole = static_cast<float>(std::sqrt(update) / (std::sqrt(gradient) + 1e-8));
  for (int64_t c = 0; c < channels; ++c) {
    if (a.per_tensor) factors[c] = whole;
    square += static_cast<double>(factors[c]) * factors[c] * a.squares.as<float>()[c];
  }
  const double root = std::sqrt(static_cast<double>(a.scale));
  const double norm = std::sqrt(square) * a.grad_scale * (a.scale_front ? root : 1.0);
  float& previous = *a.previous.as<float>();
  const double limiter = previous == 0 ? 1.0 : std::max(norm / (previous + 1e-8), 1.01) / 1.01;
  previous = static_cast<float>(norm / limiter);
  for (int64_t c = 0; c < channels; ++c) factors[c] *= static_cast<float>(root / limiter);
}

void scaled_step(const ScaledStep& a) {
  const int64_t cols = a.of.parameter.cols;
  const float* factors = a.factors.as<float>();
  sweep(a.of, [&](Range r, float* p, const float* g, Noise&) {
    row_runs(r, cols, [&](int64_t row, int64_t col, int64_t i, int64_t n) {
      if (a.columns) {
        for (int64_t l = 0; l < n; ++l) p[i + l] -= a.rate * factors[col + l] * g[i + l];
      } else {
        const float step = a.rate * factors[row];
        for (int64_t l = 0; l < n; ++l) p[i + l] -= step * g[i + l];
      }
    });
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
