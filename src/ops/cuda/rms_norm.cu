#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"
#include "ops/cuda/partial_sums.h"

// A row of up to kNarrow numbers (a head of q or k, a small model) belongs to a warp, a longer one to a block.
namespace attune::ops::cuda {
namespace {

constexpr int64_t kNarrow = 1024;
constexpr int64_t kWarps = kThreads / kWarp;

// The threads that share a row, and how they sum.
template <bool kByWarp>
struct Team {
  __device__ static int64_t rows_in_block() { return kByWarp ? kWarps : 1; }
  __device__ static int64_t row() { return kByWarp ? threadIdx.x / kWarp : 0; }
  __device__ static int64_t thread() { return kByWarp ? threadIdx.x % kWarp : threadIdx.x; }
  __device__ static int64_t threads() { return kByWarp ? kWarp : kThreads; }
  __device__ static float sum(float x) { return kByWarp ? warp_sum(x) : block_sum(x); }
};

struct Heads {
  int64_t n, d, heads;  // rows of d: n = N·heads
  __device__ int64_t row(int64_t i) const { return i / heads; }
  __device__ int64_t column(int64_t i) const { return i % heads * d; }
};

template <bool kByWarp, int N>
__global__ void __launch_bounds__(kThreads) forward(Heads of, View x, View weight, View y, float* rstd, float eps, float offset) {
  using T = Team<kByWarp>;
  const int64_t i = blockIdx.x * T::rows_in_block() + T::row();
  if (i >= of.n) return;  // a whole team
  const int64_t row = of.row(i), column = of.column(i);
  float squares = 0;
  for (int64_t j = T::thread() * N; j < of.d; j += T::threads() * N) {
    float a[N];
    load(x, row, column + j, a);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += a[k] * a[k];
  }
  const float r = 1.0f / sqrtf(T::sum(squares) / static_cast<float>(of.d) + eps);
  if (T::thread() == 0) rstd[i] = r;
  for (int64_t j = T::thread() * N; j < of.d; j += T::threads() * N) {
    float a[N], w[N];
    load(x, row, column + j, a);
    load(weight, 0, j, w);
#pragma unroll
    for (int k = 0; k < N; ++k) a[k] = a[k] * r * (w[k] + offset);
    store(a, y, row, column + j);
  }
}

struct Backward {
  Heads of;
  View x, weight, dy, dx;
  const float* rstd;
  bool accumulate_dx;
  float offset;
  float* partial;  // or null; one row of d for each block
  int64_t partial_stride;
};

// A block takes a run of rows, one after another (or eight, a warp each), and sums dw up in shared memory: column j belongs to
// one thread of each team.
template <bool kByWarp, int N>
__global__ void __launch_bounds__(kThreads) backward(Backward a) {
  using T = Team<kByWarp>;
  const Heads& of = a.of;
  float* const sums = shared_memory<float>() + T::row() * of.d;
  if (a.partial)
    for (int64_t j = T::thread() * N; j < of.d; j += T::threads() * N)
      for (int k = 0; k < N; ++k) sums[j + k] = 0;
  const int64_t blocks = gridDim.x, begin = of.n * blockIdx.x / blocks, end = of.n * (blockIdx.x + 1) / blocks;
  for (int64_t i = begin + T::row(); i < end; i += T::rows_in_block()) {
    const int64_t row = of.row(i), column = of.column(i);
    const float r = a.rstd[i];
    float dot = 0;
    for (int64_t j = T::thread() * N; j < of.d; j += T::threads() * N) {
      float x[N], dy[N], w[N];
      load(a.x, row, column + j, x);
      load(a.dy, row, column + j, dy);
      load(a.weight, 0, j, w);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float product = dy[k] * x[k];
        if (a.partial) sums[j + k] += product * r;
        dot += product * (w[k] + a.offset);
      }
    }
    if (!a.dx.defined()) continue;
    const float c = T::sum(dot) * r * r * r / static_cast<float>(of.d);
    for (int64_t j = T::thread() * N; j < of.d; j += T::threads() * N) {
      float x[N], dy[N], w[N], before[N] = {};
      load(a.x, row, column + j, x);
      load(a.dy, row, column + j, dy);
      load(a.weight, 0, j, w);
      if (a.accumulate_dx) load(a.dx, row, column + j, before);
#pragma unroll
      for (int k = 0; k < N; ++k) x[k] = before[k] + dy[k] * (w[k] + a.offset) * r - x[k] * c;
      store(x, a.dx, row, column + j);
    }
  }
  if (!a.partial) return;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < of.d; j += kThreads) {
    float sum = 0;
    for (int64_t team = 0; team < T::rows_in_block(); ++team) sum += shared_memory<float>()[team * of.d + j];
    a.partial[blockIdx.x * a.partial_stride + j] = sum;
  }
}

// f(by warp, wide) as constants.
template <class F>
void with_variant(int64_t d, bool is_wide, F&& f) {
  if (d <= kNarrow) is_wide ? f(std::true_type{}, std::integral_constant<int, kWide>{}) : f(std::true_type{}, std::integral_constant<int, 1>{});
  else is_wide ? f(std::false_type{}, std::integral_constant<int, kWide>{}) : f(std::false_type{}, std::integral_constant<int, 1>{});
}

Heads heads_of(const Tensor& x, const Tensor& weight) {
  const int64_t heads = x.cols / weight.cols;
  return {x.rows.count * heads, weight.cols, heads};
}

}  // namespace

void rms_norm_forward(const RmsNormForward& a) {
  const Heads of = heads_of(a.x, a.weight);
  with_variant(of.d, wide(of.d, {a.x, a.weight, a.y}), [&](auto by_warp, auto n) {
    launch("rms_norm_forward", {{blocks(of.n, by_warp ? kWarps : 1), 1, 1}, {kThreads, 1, 1}}, forward<by_warp.value, n.value>, of, a.x, a.weight, a.y,
           a.rstd.as<float>(), a.eps, a.offset);
  });
}

void rms_norm_backward(const RmsNormBackward& a) {
  const Heads of = heads_of(a.x, a.weight);
  const bool wants_dw = a.dweight.defined();
  const int64_t teams = of.d <= kNarrow ? kWarps : 1, parts = std::clamp<int64_t>(of.n / (2 * teams), 1, kParts);
  const size_t shared = wants_dw ? static_cast<size_t>(teams * of.d) * sizeof(float) : 0;
  constexpr size_t kMostShared = 96 << 10;  // what every GPU from sm_80 on has
  if (shared > kMostShared)
    fail_with("rms_norm_backward: rows of " + std::to_string(of.d) + " numbers; the CUDA kernel takes at most " + std::to_string(kMostShared / sizeof(float)));
  // Without dw nothing is carried from row to row.
  const unsigned grid = of.n == 0 && !wants_dw ? 0 : wants_dw ? static_cast<unsigned>(parts) : blocks(of.n, teams);
  with_variant(of.d, wide(of.d, {a.x, a.weight, a.dy, a.dx}), [&](auto by_warp, auto n) {
    launch("rms_norm_backward", {{grid, 1, 1}, {kThreads, 1, 1}, shared}, backward<by_warp.value, n.value>,
           Backward{of, a.x, a.weight, a.dy, a.dx, a.rstd.as<float>(), a.accumulate_dx, a.offset, wants_dw ? a.partial.as<float>() : nullptr, a.partial.stride});
  });
  if (wants_dw) add_parts("rms_norm_backward", a.partial, parts, a.dweight, a.accumulate_dweight);
}

}  // namespace attune::ops::cuda
