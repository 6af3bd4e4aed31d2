// Shared by the kernels: tensors as they take them, sums over a warp or a block, and work on every element.
//
// What a tensor is stored as is looked up at run time, for eight elements at once: all threads of a warp take the same way, and
// memory is what these kernels wait for. So each is written and compiled once.
#pragma once

#include "ops/context.h"
#include "ops/cuda/launch.h"
#include "util/rng.h"

namespace attune::ops::cuda {

inline constexpr int kWide = 8;  // elements that a thread takes at once, where alignment allows

// A tensor, or none.
struct View {
  void* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::f32;

  View() = default;
  View(const Tensor& t) : data(t.data), stride(t.stride), dtype(t.dtype) {}  // NOLINT: a kernel's way to see a tensor

  __host__ __device__ bool defined() const { return data != nullptr; }
  template <class T>
  __device__ T* row(int64_t r) const { return static_cast<T*>(data) + r * stride; }
};

// Whether rows can be taken `kWide` elements at a time: 16-byte words that begin where the rows begin.
inline bool wide(int64_t cols, std::initializer_list<Tensor> tensors) {
  if (cols % kWide != 0) return false;
  for (const Tensor& t : tensors) {
    if (!t.defined()) continue;
    if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0) return false;
    if (t.rows.count > 1 && static_cast<uint64_t>(t.stride) * size_of(t.dtype) % 16 != 0) return false;
  }
  return true;
}

__device__ inline float bits_to_float(uint32_t u) { return std::bit_cast<float>(u); }

// N elements of `row` from `col` on, as fp32. N is 1 or kWide; what is wide begins at a multiple of 16 bytes.
template <int N>
__device__ void load(const View& v, int64_t row, int64_t col, float (&x)[N]) {
  const int64_t at = row * v.stride + col;
  if constexpr (N == 1) {
    if (v.dtype == DType::f32) x[0] = static_cast<const float*>(v.data)[at];
    else if (v.dtype == DType::bf16) x[0] = to_float(static_cast<const BFloat16*>(v.data)[at]);
    else x[0] = to_float(static_cast<const Float16*>(v.data)[at]);
  } else {
    if (v.dtype == DType::f32) {
      const auto* words = reinterpret_cast<const float4*>(static_cast<const float*>(v.data) + at);
      const float4 a = words[0], b = words[1];
      x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
      return;
    }
    const uint4 u = *reinterpret_cast<const uint4*>(static_cast<const BFloat16*>(v.data) + at);
    const uint32_t words[4] = {u.x, u.y, u.z, u.w};
    if (v.dtype == DType::bf16) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[2 * i] = bits_to_float(words[i] << 16), x[2 * i + 1] = bits_to_float(words[i] & 0xFFFF0000u);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[2 * i] = to_float(Float16{static_cast<uint16_t>(words[i])}), x[2 * i + 1] = to_float(Float16{static_cast<uint16_t>(words[i] >> 16)});
    }
  }
}

__device__ inline uint16_t narrowed(float x, DType dtype) { return dtype == DType::bf16 ? to_bf16(x).bits : to_f16(x).bits; }

template <int N>
__device__ void store(const float (&x)[N], const View& v, int64_t row, int64_t col) {
  const int64_t at = row * v.stride + col;
  if constexpr (N == 1) {
    if (v.dtype == DType::f32) static_cast<float*>(v.data)[at] = x[0];
    else static_cast<uint16_t*>(v.data)[at] = narrowed(x[0], v.dtype);
  } else {
    if (v.dtype == DType::f32) {
      auto* words = reinterpret_cast<float4*>(static_cast<float*>(v.data) + at);
      words[0] = {x[0], x[1], x[2], x[3]};
      words[1] = {x[4], x[5], x[6], x[7]};
      return;
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = narrowed(x[2 * i], v.dtype) | static_cast<uint32_t>(narrowed(x[2 * i + 1], v.dtype)) << 16;
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(v.data) + at) = {words[0], words[1], words[2], words[3]};
  }
}

__device__ inline float element(const View& v, int64_t row, int64_t col) {
  float x[1];
  load(v, row, col, x);
  return x[0];
}
__device__ inline void put(float value, const View& v, int64_t row, int64_t col) {
  const float x[1] = {value};
  store(x, v, row, col);
}

// Shared memory that the launch asked for.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char attune_shared[];
  return reinterpret_cast<T*>(attune_shared);
}

// Sums ---------------------------------------------------------------------------------------------------------------------
// Every thread gets the result; the order of additions is fixed. All threads of the warp, or the block (a whole number of
// warps, one-dimensional), must call.

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};
struct Highest {
  __device__ float operator()(float a, float b) const { return a < b || b != b ? b : a; }  // a NaN is highest
};

template <class T, class Merge>
__device__ T warp_reduce(T x, Merge merge) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x = merge(x, __shfl_xor_sync(0xFFFFFFFFu, x, lane));
  return x;
}
template <class T>
__device__ T warp_sum(T x) { return warp_reduce(x, Sum{}); }

template <class T, class Merge>
__device__ T block_reduce(T x, T nothing, Merge merge) {
  __shared__ T of_warp[kWarp];
  x = warp_reduce(x, merge);
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  __syncthreads();  // a reduction before this one may still be read
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  return warp_reduce(lane < warps ? of_warp[lane] : nothing, merge);
}
template <class T>
__device__ T block_sum(T x) { return block_reduce(x, T{}, Sum{}); }

// The row of this thread's warp, where each warp of a one-dimensional grid takes a row.
__device__ inline int64_t warp_row() { return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp; }
__device__ inline int64_t lane() { return threadIdx.x % kWarp; }
inline Shape warp_rows(int64_t rows) { return {{blocks(rows, kThreads / kWarp), 1, 1}, {kThreads, 1, 1}}; }

// Every element ------------------------------------------------------------------------------------------------------------

// f.at<N>(row, column) for N elements at once.
template <int N, class F>
__global__ void __launch_bounds__(kThreads) over_matrix(int64_t rows, int64_t cols, F f) {
  for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y)
    for (int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N; col < cols;
         col += static_cast<int64_t>(gridDim.x) * blockDim.x * N)
      f.template at<N>(row, col);
}

template <class F>
void over_elements(const char* op, int64_t rows, int64_t cols, bool wide, const F& f) {
  if (rows == 0 || cols == 0) return;
  const int64_t chunks = wide ? cols / kWide : cols;
  unsigned x = kWarp;
  while (x < kThreads && x < chunks) x *= 2;
  const dim3 block{x, kThreads / x, 1};
  const Shape shape{{blocks(chunks, x, 4096), blocks(rows, block.y, 32768), 1}, block};
  if (wide) launch(op, shape, over_matrix<kWide, F>, rows, cols, f);
  else launch(op, shape, over_matrix<1, F>, rows, cols, f);
}

}  // namespace attune::ops::cuda
