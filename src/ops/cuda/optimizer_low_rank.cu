#include "ops/optimizer_low_rank.h"

#include "ops/cuda/ops.h"
#include "ops/cuda/sweep.h"

namespace attune::ops::cuda {
namespace {

// Two standard normal values from two words: util/rng.h's normal_pair with the device's functions.
__device__ void normal_values(uint32_t a, uint32_t b, float& first, float& second) {
  const double u = (static_cast<double>(a) + 1.0) * 0x1.0p-32;
  const double v = static_cast<double>(b) * 0x1.0p-32 * 6.283185307179586;
  const double r = sqrt(-2.0 * log(u));
  first = static_cast<float>(r * cos(v));
  second = static_cast<float>(r * sin(v));
}

__global__ void __launch_bounds__(kThreads) random_normal(View out, int64_t n, uint64_t key, float deviation) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at >= n) return;
  const PhiloxBlock words = philox(key, static_cast<uint64_t>(at / 4), 0);
  float normal[4];
  normal_values(words[0], words[1], normal[0], normal[1]);
  normal_values(words[2], words[3], normal[2], normal[3]);
#pragma unroll
  for (int64_t i = 0; i < 4; ++i)
    if (at + i < n) put(deviation * normal[i], out, 0, at + i);
}

struct Channels {
  View gradient;  // flat
  int64_t rows, cols;
  const float* direction;  // or null
  float *squares, *products;
  __device__ float g(int64_t i, int64_t j) const { return element(gradient, 0, i * cols + j); }
};

__global__ void __launch_bounds__(kThreads) row_channels(Channels a) {
  const int64_t i = blockIdx.x;
  double square = 0, product = 0;
  for (int64_t j = threadIdx.x; j < a.cols; j += kThreads) {
    const float g = a.g(i, j);
    square += g * g;
    if (a.direction) product += g * a.direction[j];
  }
  square = block_sum(square);
  product = block_sum(product);
  if (threadIdx.x != 0) return;
  a.squares[i] = static_cast<float>(square);
  if (a.direction) a.products[i] = static_cast<float>(product);
}

// A part of the rows each; partial rows [0, kParts) are those of squares, the next kParts those of products.
__global__ void __launch_bounds__(kThreads) column_channel_parts(Channels a, float* partial) {
  constexpr int64_t kParts = ChannelSums::kParts;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, part = blockIdx.y;
  if (j >= a.cols) return;
  float square = 0, product = 0;
  for (int64_t i = a.rows * part / kParts; i < a.rows * (part + 1) / kParts; ++i) {
    const float g = a.g(i, j);
    square += g * g;
    if (a.direction) product += a.direction[i] * g;
  }
  partial[part * a.cols + j] = square;
  partial[(kParts + part) * a.cols + j] = product;
}

__global__ void __launch_bounds__(kThreads) column_channels(Channels a, const float* partial) {
  constexpr int64_t kParts = ChannelSums::kParts;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= a.cols) return;
  float square = 0, product = 0;
  for (int64_t part = 0; part < kParts; ++part) {
    square += partial[part * a.cols + j];
    product += partial[(kParts + part) * a.cols + j];
  }
  a.squares[j] = square;
  if (a.direction) a.products[j] = product;
}

struct Apollo {
  const float* low;
  float *m, *v, *factors, *previous;
  const float* squares;
  int64_t channels, rank, next_channel, next_rank;
  float grad_scale, beta1, beta2, eps;
  bool per_tensor, scale_front;
  double root;       // √scale
  double* scratch;   // of block b: Σu² at b, Σlow² at kApolloParts + b
};
constexpr int64_t kApolloParts = 64;

__global__ void __launch_bounds__(kThreads) apollo_moments(Apollo a) {
  constexpr int64_t kWarps = kThreads / kWarp;
  double moved = 0, seen = 0;
  const int64_t part = blockIdx.x, end = a.channels * (part + 1) / kApolloParts;
  for (int64_t c = a.channels * part / kApolloParts + threadIdx.x / kWarp; c < end; c += kWarps) {
    double update = 0, gradient = 0;
    for (int64_t k = lane(); k < a.rank; k += kWarp) {
      const int64_t at = c * a.next_channel + k * a.next_rank;
      const float g = a.grad_scale * a.low[at];
      const float m = a.beta1 * a.m[at] + (1.0f - a.beta1) * g, v = a.beta2 * a.v[at] + (1.0f - a.beta2) * g * g;
      a.m[at] = m, a.v[at] = v;
      const float u = m / (sqrtf(v) + a.eps);
      update += u * u;
      gradient += g * g;
    }
    update = warp_sum(update);
    gradient = warp_sum(gradient);
    if (lane() == 0) {
      a.factors[c] = static_cast<float>(sqrt(update) / (sqrt(gradient) + 1e-8));
      moved += update;
      seen += gradient;
    }
  }
  moved = block_sum(moved);
  seen = block_sum(seen);
  if (threadIdx.x == 0) a.scratch[part] = moved, a.scratch[kApolloParts + part] = seen;
}

// One block: the limiter needs the whole tensor.
__global__ void __launch_bounds__(kThreads) apollo_limit(Apollo a) {
  const double update = block_sum(threadIdx.x < kApolloParts ? a.scratch[threadIdx.x] : 0.0);
  const double gradient = block_sum(threadIdx.x < kApolloParts ? a.scratch[kApolloParts + threadIdx.x] : 0.0);
  const auto whole = static_cast<float>(sqrt(update) / (sqrt(gradient) + 1e-8));
  double square = 0;
  for (int64_t c = threadIdx.x; c < a.channels; c += kThreads) {
    if (a.per_tensor) a.factors[c] = whole;
    square += static_cast<double>(a.factors[c]) * a.factors[c] * a.squares[c];
  }
  square = block_sum(square);
  const double norm = sqrt(square) * a.grad_scale * (a.scale_front ? a.root : 1.0);
  const float previous = *a.previous;
  __syncthreads();  // all have read it
  const double limiter = previous == 0 ? 1.0 : fmax(norm / (previous + 1e-8), 1.01) / 1.01;
  if (threadIdx.x == 0) *a.previous = static_cast<float>(norm / limiter);
  for (int64_t c = threadIdx.x; c < a.channels; c += kThreads) a.factors[c] *= static_cast<float>(a.root / limiter);
}
static_assert(2 * kApolloParts <= CudaDevice::kScratch && kApolloParts <= kThreads);

struct ScaledRule {
  Step of;
  const float* factors;
  bool columns;
  int64_t cols;
  float rate;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    float p[N], g[N];
    of.begin(i, p, g);
#pragma unroll
    for (int k = 0; k < N; ++k) p[k] -= rate * factors[columns ? (i + k) % cols : (i + k) / cols] * g[k];
    of.end(i, p);
  }
};

}  // namespace

void random_projection(const RandomProjection& a) {
  const int64_t n = a.out.count();
  launch("random_projection", {{blocks(n, 4 * kThreads), 1, 1}, {kThreads, 1, 1}}, random_normal, a.out, n, a.key,
         1.0f / sqrtf(static_cast<float>(a.out.rows.count)));
}

void channel_sums(const ChannelSums& a) {
  const int64_t rows = a.gradient.rows.count, cols = a.gradient.cols;
  const Channels c{a.gradient, rows, cols, a.direction.as<float>(), a.squares.as<float>(), a.products.as<float>()};
  if (!a.columns) {
    launch("channel_sums", {{static_cast<unsigned>(rows), 1, 1}, {kThreads, 1, 1}}, row_channels, c);
    return;
  }
  const unsigned strips = blocks(cols, kThreads);
  launch("channel_sums", {{strips, static_cast<unsigned>(ChannelSums::kParts), 1}, {kThreads, 1, 1}}, column_channel_parts, c, a.partial.as<float>());
  launch("channel_sums", {{strips, 1, 1}, {kThreads, 1, 1}}, column_channels, c, a.partial.as<float>());
}

void apollo_factors(const ApolloFactors& a) {
  const int64_t channels = a.factors.cols;
  if (channels == 0) return;
  const int64_t rank = a.low.count() / channels;
  const Apollo arguments{a.low.as<float>(), a.m.as<float>(), a.v.as<float>(), a.factors.as<float>(), a.previous.as<float>(), a.squares.as<float>(),
                         channels, rank, a.columns ? 1 : rank, a.columns ? channels : 1, a.grad_scale, a.beta1, a.beta2, a.eps, a.per_tensor, a.scale_front,
                         std::sqrt(static_cast<double>(a.scale)), device().scratch()};
  launch("apollo_factors", {{static_cast<unsigned>(kApolloParts), 1, 1}, {kThreads, 1, 1}}, apollo_moments, arguments);
  launch("apollo_factors", {{1, 1, 1}, {kThreads, 1, 1}}, apollo_limit, arguments);
}

void scaled_step(const ScaledStep& a) {
  sweep("scaled_step", a.of, {}, ScaledRule{a.of, a.factors.as<float>(), a.columns, a.of.parameter.cols, a.rate});
}

}  // namespace attune::ops::cuda
