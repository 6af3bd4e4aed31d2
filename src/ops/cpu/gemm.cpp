#include "ops/blas/onednn.h"
#include "ops/blas/provider.h"
#include "ops/cpu/packed_gemm.h"

// Where our own kernels are at least as fast they do the work. The rest of fp32 goes to oneDNN as it is; bf16 goes there
// where the processor multiplies bf16; elsewhere tiles are converted to fp32 (oneDNN's own emulation is several times
// slower), summed in fp32 and rounded once.
namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr int64_t kTile = 1024;

using packed::Sizes;

Sizes sizes_of(const Gemm& g, bool capacity) {
  const auto rows = [&](const Tensor& t) { return capacity ? t.rows.capacity : t.rows.count; };
  return {g.transpose_a ? g.a.cols : rows(g.a), g.transpose_b ? rows(g.b) : g.b.cols, g.transpose_a ? rows(g.a) : g.a.cols};
}

bool all_f32(const Gemm& g) { return g.a.dtype == DType::f32 && g.b.dtype == DType::f32 && g.c.dtype == DType::f32; }
bool native_bf16(const Gemm& g) {
  return g.a.dtype == DType::bf16 && g.b.dtype == DType::bf16 && g.c.dtype != DType::f16 && onednn::bf16_hardware();
}

// Measured (docs/benchmarks.md): our own kernels are level with oneDNN or ahead at nearly every shape, but for fp32 without
// Bᵀ (the gradients); with AMX oneDNN has the faster units. Nothing is timed at run time, so that a run gives the same bits each time.
bool own(const Gemm& g) {
  if (all_f32(g)) return g.transpose_b && packed::can(g);
  if (g.a.dtype != DType::bf16 || g.b.dtype != DType::bf16 || g.c.dtype == DType::f16) return packed::can(g);
  switch (bf16_provider()) {
    case Bf16Provider::automatic: return packed::can(g) && !onednn::matrix_tiles();
    case Bf16Provider::own:
      if (!packed::can(g)) refuse_own_bf16();
      return true;
    default: return false;
  }
}

int64_t tile(int64_t n) { return std::min(n, kTile); }

// A block [rows, cols] of `t` at (r, c) as contiguous fp32.
void load_block(const Tensor& t, int64_t r, int64_t c, int64_t rows, int64_t cols, float* out) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for schedule(static) if (rows * cols > kParallelElements)
    for (int64_t i = 0; i < rows; ++i) {
      const T* from = t.row<T>(r + i) + c;
      float* to = out + i * cols;
      for (int64_t j = 0; j < cols; ++j) to[j] = to_float(from[j]);
    }
  });
}

void store_block(const float* in, int64_t rows, int64_t cols, const Tensor& t, int64_t r, int64_t c) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for schedule(static) if (rows * cols > kParallelElements)
    for (int64_t i = 0; i < rows; ++i) {
      T* to = t.row<T>(r + i) + c;
      const float* from = in + i * cols;
      for (int64_t j = 0; j < cols; ++j) to[j] = from_float<T>(from[j]);
    }
  });
}

void converted_gemm(const Gemm& g, float* workspace) {
  const Sizes cap = sizes_of(g, true), s = sizes_of(g, false);
  float* a = workspace;
  float* b = a + tile(cap.m) * tile(cap.k);
  float* c = b + tile(cap.n) * tile(cap.k);
  for (int64_t i = 0; i < s.m; i += kTile) {
    const int64_t m = tile(s.m - i);
    for (int64_t j = 0; j < s.n; j += kTile) {
      const int64_t n = tile(s.n - j);
      if (g.accumulate) load_block(g.c, i, j, m, n, c);
      for (int64_t l = 0; l < s.k; l += kTile) {
        const int64_t k = tile(s.k - l);
        if (g.transpose_a) load_block(g.a, l, i, k, m, a);
        else load_block(g.a, i, l, m, k, a);
        if (g.transpose_b) load_block(g.b, j, l, n, k, b);
        else load_block(g.b, l, j, k, n, b);
        onednn::sgemm(g.transpose_a, g.transpose_b, m, n, k, a, g.transpose_a ? m : k, b, g.transpose_b ? k : n,
                      g.accumulate || l > 0, c, n);
      }
      store_block(c, m, n, g.c, i, j);
    }
  }
}

}  // namespace

uint64_t gemm_workspace(const Gemm& g) {
  if (own(g)) return packed::workspace(g, sizes_of(g, true));
  if (all_f32(g)) return 0;
  if (native_bf16(g)) return onednn::bf16_workspace(g);
  const Sizes s = sizes_of(g, true);
  return static_cast<uint64_t>(tile(s.m) * tile(s.k) + tile(s.n) * tile(s.k) + tile(s.m) * tile(s.n)) * sizeof(float);
}

void gemm(const GemmCall& call) {
  const Gemm& g = call.args;
  const Sizes s = sizes_of(g, false);
  if (s.k == 0) {
    if (!g.accumulate) fill_zero(g.c);
  } else if (own(g)) {
    packed::gemm(call, sizes_of(g, true), s);
  } else if (all_f32(g)) {
    onednn::sgemm(g.transpose_a, g.transpose_b, s.m, s.n, s.k, g.a.as<float>(), g.a.stride, g.b.as<float>(), g.b.stride,
                  g.accumulate, g.c.as<float>(), g.c.stride);
  } else if (native_bf16(g)) {
    onednn::bf16_gemm(call);
  } else {
    converted_gemm(g, static_cast<float*>(call.workspace));
  }
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
