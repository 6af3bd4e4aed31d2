#include "ops/cuda/partial_sums.h"
#include "ops/cuda/sweep.h"
#include "ops/cuda/ops.h"

// Adafactor. Sums that decide the step stay on the device, in its scratch: nobody waits for them.
namespace attune::ops::cuda {
namespace {

constexpr int64_t kSums = 256;  // blocks that sum over a tensor
// Places of the scratch.
enum : int64_t { kMeanOfRows = 0, kUpdate = 1, kSize = 2, kPartials = 16 };

struct Moments {
  View gradient;  // flat
  int64_t rows, cols;
  float grad_scale, eps, beta;
  __device__ float square(int64_t i, int64_t j) const {
    const float g = grad_scale * element(gradient, 0, i * cols + j);
    return g * g + eps;
  }
};

__global__ void __launch_bounds__(kThreads) row_moments(Moments a, float* r) {
  const int64_t i = blockIdx.x;
  double sum = 0;
  for (int64_t j = threadIdx.x; j < a.cols; j += kThreads) sum += a.square(i, j);
  sum = block_sum(sum);
  if (threadIdx.x == 0) r[i] = a.beta * r[i] + (1 - a.beta) * static_cast<float>(sum / static_cast<double>(a.cols));
}

__global__ void __launch_bounds__(kThreads) column_parts(Moments a, float* partial) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, part = blockIdx.y;
  if (j >= a.cols) return;
  float sum = 0;
  for (int64_t i = a.rows * part / Adafactor::kParts; i < a.rows * (part + 1) / Adafactor::kParts; ++i) sum += a.square(i, j);
  partial[part * a.cols + j] = sum;
}

__global__ void __launch_bounds__(kThreads) mean_of(const float* r, int64_t n, double* mean) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += r[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *mean = sum / static_cast<double>(n);
}

__global__ void __launch_bounds__(kThreads) factors(Moments a, const float* r, float* c, const float* partial, const double* mean, float* row_factor, float* col_factor) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k < a.rows) row_factor[k] = 1.0f / sqrtf(r[k] / static_cast<float>(*mean));
  if (k >= a.cols) return;
  float sum = 0;
  for (int64_t p = 0; p < Adafactor::kParts; ++p) sum += partial[p * a.cols + k];
  c[k] = a.beta * c[k] + (1 - a.beta) * sum / static_cast<float>(a.rows);
  col_factor[k] = 1.0f / sqrtf(c[k]);
}

struct VectorMoment {
  View gradient;
  float* v;
  float grad_scale, beta, eps;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    const float g = grad_scale * element(gradient, 0, i);
    v[i] = beta * v[i] + (1 - beta) * (g * g + eps);
  }
};

// The update in the direction of the gradient, not yet clipped.
struct Direction {
  View gradient;
  float grad_scale;
  const float* v;  // of a vector; of a matrix the factors
  const float *row_factor, *col_factor;
  int64_t cols;
  __device__ float operator()(int64_t i) const {
    const float g = element(gradient, 0, i) * grad_scale;
    return v ? g / sqrtf(v[i]) : g * (row_factor[i / cols] * col_factor[i % cols]);
  }
};

// partial[b] = Σ of the squares of block b's elements; with a parameter, behind them those of p.
__global__ void __launch_bounds__(kThreads) square_parts(Direction direction, View parameter, int64_t n, double* partial) {
  const int64_t begin = n * blockIdx.x / gridDim.x, end = n * (blockIdx.x + 1) / gridDim.x;
  double update = 0, size = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float u = direction(i);
    update += u * u;
    if (!parameter.defined()) continue;
    const float p = element(parameter, 0, i);
    size += p * p;
  }
  update = block_sum(update);
  size = block_sum(size);
  if (threadIdx.x == 0) partial[blockIdx.x] = update, partial[kSums + blockIdx.x] = size;
}

__global__ void __launch_bounds__(kThreads) add_squares(int64_t parts, double* scratch) {
  const double update = block_sum(threadIdx.x < parts ? scratch[kPartials + threadIdx.x] : 0.0);
  const double size = block_sum(threadIdx.x < parts ? scratch[kPartials + kSums + threadIdx.x] : 0.0);
  if (threadIdx.x == 0) scratch[kUpdate] = update, scratch[kSize] = size;
}
static_assert(kSums <= kThreads && kPartials + 2 * kSums <= CudaDevice::kScratch);

struct Rule {
  Step of;
  Direction direction;
  const double* scratch;
  double count;
  float eps_scale, clip_threshold;
  bool scale_parameter;
  template <int N>
  __device__ void at(int64_t, int64_t i) const {
    float lr = of.lr;
    if (scale_parameter) lr *= fmaxf(eps_scale, static_cast<float>(sqrt(scratch[kSize] / count)));
    const float rms = static_cast<float>(sqrt(scratch[kUpdate] / count)), step = lr / fmaxf(1.0f, rms / clip_threshold);
    float p[1], g[1];
    load(of.parameter, 0, i, p);
    g[0] = direction(i);
    of.decay(i, p, g, lr);
    p[0] -= step * direction(i);
    of.end(i, p);
  }
};

}  // namespace

void adafactor(const Adafactor& a) {
  const Tensor& p = a.of.parameter;
  const int64_t n = p.count(), rows = p.rows.count, cols = p.cols;
  double* scratch = device().scratch();
  if (a.v.defined()) {
    over_elements("adafactor", 1, n, false, VectorMoment{a.of.gradient, a.v.as<float>(), a.of.grad_scale, a.beta, a.eps});
  } else {
    const Moments m{a.of.gradient, rows, cols, a.of.grad_scale, a.eps, a.beta};
    launch("adafactor", {{static_cast<unsigned>(rows), 1, 1}, {kThreads, 1, 1}}, row_moments, m, a.rows.as<float>());
    launch("adafactor", {{blocks(cols, kThreads), static_cast<unsigned>(Adafactor::kParts), 1}, {kThreads, 1, 1}}, column_parts, m, a.partial.as<float>());
    launch("adafactor", {{1, 1, 1}, {kThreads, 1, 1}}, mean_of, a.rows.as<float>(), rows, scratch + kMeanOfRows);
    launch("adafactor", {{blocks(std::max(rows, cols), kThreads), 1, 1}, {kThreads, 1, 1}}, factors, m, a.rows.as<float>(), a.cols.as<float>(),
           a.partial.as<float>(), scratch + kMeanOfRows, a.row_factor.as<float>(), a.col_factor.as<float>());
  }
  const Direction direction{a.of.gradient, a.of.grad_scale, a.v.as<float>(), a.row_factor.as<float>(), a.col_factor.as<float>(), cols};
  const auto parts = static_cast<int64_t>(blocks(n, 4 * kThreads, kSums));
  launch("adafactor", {{static_cast<unsigned>(parts), 1, 1}, {kThreads, 1, 1}}, square_parts, direction, a.scale_parameter ? View(p) : View(), n, scratch + kPartials);
  launch("adafactor", {{1, 1, 1}, {kThreads, 1, 1}}, add_squares, parts, scratch);
  over_elements("adafactor", 1, n, false, Rule{a.of, direction, scratch, static_cast<double>(n), a.eps_scale, a.clip_threshold, a.scale_parameter});
}

}  // namespace attune::ops::cuda
