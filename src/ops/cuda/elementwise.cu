#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"
#include "ops/cuda/partial_sums.h"

namespace attune::ops::cuda {
namespace {

struct AddOp {
  View a, b, out;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float x[N], y[N];
    load(a, row, col, x);
    load(b, row, col, y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += y[i];
    store(x, out, row, col);
  }
};

struct ScaleOp {
  View from, to;
  float factor;
  bool accumulate;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float x[N], y[N] = {};
    load(from, row, col, x);
    if (accumulate) load(to, row, col, y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = accumulate ? y[i] + factor * x[i] : factor * x[i];
    store(x, to, row, col);
  }
};

// to[to_rows[i]] (+)= from[from_rows[i]], where a null list is the identity.
struct CopyRows {
  View from, to;
  const int32_t *from_rows, *to_rows;
  bool accumulate;
  template <int N>
  __device__ void at(int64_t i, int64_t col) const {
    const int64_t source = from_rows ? from_rows[i] : i, target = to_rows ? to_rows[i] : i;
    float x[N], y[N];
    load(from, source, col, x);
    if (accumulate) {
      load(to, target, col, y);
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] += y[j];
    }
    store(x, to, target, col);
  }
};

struct DropoutOp {
  View x, y;
  const int64_t* samples;
  const int32_t* positions;
  float p, keep;
  uint64_t key;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    const auto sample = static_cast<uint64_t>(samples[row]);
    const uint64_t position = static_cast<uint64_t>(positions[row]) << 32;
    float values[N];
    load(x, row, col, values);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const PhiloxBlock words = philox(key, sample, position | static_cast<uint64_t>((col + i) / 4));
#pragma unroll
      for (int j = 0; j < 4 && i + j < N; ++j) {
        const auto word = words[static_cast<size_t>(N == 1 ? col % 4 : j)];
        values[i + j] = uniform_float(word) >= p ? values[i + j] * keep : 0.0f;
      }
    }
    store(values, y, row, col);
  }
};

}  // namespace

void add(const Add& a) { over_elements("add", a.a.rows.count, a.a.cols, wide(a.a.cols, {a.a, a.b, a.out}), AddOp{a.a, a.b, a.out}); }

void add_bias(const AddBias& a) {
  View bias = a.bias;
  bias.stride = 0;  // every row reads the first
  over_elements("add_bias", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x, a.bias}), AddOp{a.x, bias, a.x});
}

void sum_rows(const SumRows& a) {
  const int64_t parts = column_sums("sum_rows", a.x.rows.count, a.x.cols, {a.x}, a.partial);
  add_parts("sum_rows", a.partial, parts, a.out, a.accumulate);
}

void scale(const Scale& a) {
  over_elements("scale", a.from.rows.count, a.from.cols, wide(a.from.cols, {a.from, a.to}), ScaleOp{a.from, a.to, a.scale, a.accumulate});
}

void fill_zero(const Tensor& x) {
  const size_t size = size_of(x.dtype), width = static_cast<size_t>(x.cols) * size, pitch = static_cast<size_t>(x.stride) * size;
  if (width == 0 || x.rows.count == 0) return;
  CudaDevice& d = device();
  // A pitch has an upper limit; what has no gaps is one row.
  if (x.contiguous() || x.rows.count == 1)
    return d.zero(x.data, width * static_cast<size_t>(x.rows.count));
  check(cudaMemset2DAsync(x.data, pitch, 0, width, static_cast<size_t>(x.rows.count), d.stream()), "fill_zero", "cudaMemset2DAsync");
  if (d.synchronous()) d.synchronize();
}

void gather_rows(const GatherRows& a) {
  over_elements("gather_rows", a.out.rows.count, a.out.cols, wide(a.out.cols, {a.x, a.out}), CopyRows{a.x, a.out, a.rows.as<int32_t>(), nullptr, false});
}

void scatter_rows(const ScatterRows& a) {
  over_elements("scatter_rows", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x, a.out}), CopyRows{a.x, a.out, nullptr, a.rows.as<int32_t>(), a.accumulate});
}

void dropout(const Dropout& a) {
  over_elements("dropout", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x, a.y}),
                DropoutOp{a.x, a.y, a.sample_ids.as<int64_t>(), a.positions.as<int32_t>(), a.p, 1.0f / (1.0f - a.p), a.key});
}

}  // namespace attune::ops::cuda
