#include <algorithm>

#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

// Column h·half + j stands for the pair (j, j + half) of head h.
struct RopeOp {
  View x;
  const float* table;
  int64_t table_stride;
  const int32_t* positions;
  int64_t d, half;
  float sign;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    const int64_t head = col / half, j = col % half, first = head * d + j;
    const float* c = table + (positions ? positions[row] : row) * table_stride + j;
    const float* s = c + half;
    float p[N], q[N];
    load(x, row, first, p);
    load(x, row, first + half, q);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float cosine = c[i], sine = sign * s[i], a = p[i], b = q[i];
      p[i] = a * cosine - b * sine;
      q[i] = b * cosine + a * sine;
    }
    store(p, x, row, first);
    store(q, x, row, first + half);
  }
};

constexpr int64_t kMostFrequencies = 256;

// By value: the frequencies lie on the host.
struct Frequencies {
  float of[kMostFrequencies];
};

struct TableArguments {
  float* table;
  int64_t stride, rows, half, sequences;
  const int32_t* cu;
  int64_t limit;
  bool has_long;
  double theta, factor;
  float scale;
};

__global__ void __launch_bounds__(kThreads) make_table(TableArguments a, Frequencies frequency, Frequencies long_frequency) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= a.rows || i >= a.cu[a.sequences]) return;
  int64_t low = 0, high = a.sequences;  // cu[low] ≤ i < cu[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (a.cu[middle] <= i) low = middle;
    else high = middle;
  }
  const int64_t begin = a.cu[low], length = a.cu[low + 1] - begin;
  const double r = static_cast<double>(2 * a.half);
  for (int64_t j = threadIdx.x; j < a.half; j += blockDim.x) {
    float f = frequency.of[j];
    if (length > a.limit) {
      if (a.has_long) {
        f = long_frequency.of[j];
      } else {
        const double ratio = a.factor * static_cast<double>(length) / static_cast<double>(a.limit) - (a.factor - 1);
        const double theta = a.theta * pow(ratio, r / (r - 2));
        f = static_cast<float>(1 / pow(theta, static_cast<double>(2 * j) / r));
      }
    }
    const float angle = static_cast<float>(i - begin) * f;
    a.table[i * a.stride + j] = a.scale * cosf(angle);
    a.table[i * a.stride + j + a.half] = a.scale * sinf(angle);
  }
}

}  // namespace

void rope(const Rope& a) {
  const int64_t d = a.x.cols / a.heads, half = a.table.cols / 2;
  // Wide where a head's halves begin at whole words too.
  const bool is_wide = wide(half, {a.x}) && (static_cast<uint64_t>(d) * size_of(a.x.dtype)) % 16 == 0 && (static_cast<uint64_t>(half) * size_of(a.x.dtype)) % 16 == 0;
  over_elements("rope", a.x.rows.count, a.heads * half, is_wide,
                RopeOp{a.x, a.table.as<float>(), a.table.stride, a.positions.defined() ? a.positions.as<int32_t>() : nullptr, d, half, a.backward ? -1.0f : 1.0f});
}

void rope_table(const RopeTable& a) {
  const int64_t half = a.table.cols / 2, rows = a.table.rows.count;
  if (half > kMostFrequencies)
    fail_with("rope_table: " + std::to_string(a.table.cols) + " rotated dimensions; the CUDA kernel takes at most " + std::to_string(2 * kMostFrequencies));
  Frequencies near{}, far{};
  std::copy_n(a.frequency, half, near.of);
  if (a.long_frequency) std::copy_n(a.long_frequency, half, far.of);
  const TableArguments t{a.table.as<float>(), a.table.stride, rows, half, a.cu_seqlens.cols - 1, a.cu_seqlens.as<int32_t>(), a.limit,
                         a.long_frequency != nullptr, a.theta, a.factor, a.scale};
  if (t.sequences > 0) launch("rope_table", {{blocks(rows, kThreads / kWarp), 1, 1}, {kWarp, kThreads / kWarp, 1}}, make_table, t, near, far);
}

}  // namespace attune::ops::cuda
