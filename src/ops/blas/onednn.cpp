#include "ops/blas/onednn.h"

#include <dnnl.hpp>
#include <omp.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "ops/blas/provider.h"
#include "util/error.h"

namespace attune::ops::onednn {
namespace {

dnnl::engine& engine() {
  static dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

// A compiled product for one set of shapes. Memory objects are reused: only their pointers change.
struct Matmul {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
  dnnl::memory a, b, c, scratchpad;
};

using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int>;

dnnl::memory::data_type type_of(const Tensor& t) {
  return t.dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::memory::desc describe(const Tensor& t, bool transpose, int64_t rows, int64_t cols) {
  const dnnl::memory::dims strides = transpose ? dnnl::memory::dims{1, t.stride} : dnnl::memory::dims{t.stride, 1};
  return {{rows, cols}, type_of(t), strides};
}

// `capacity`: describe the product at full capacity rather than at its real row counts.
dnnl::matmul::primitive_desc make(const Gemm& g, bool capacity) {
  const auto rows = [&](const Tensor& t) { return std::max<int64_t>(1, capacity ? t.rows.capacity : t.rows.count); };
  const int64_t m = rows(g.c), n = g.c.cols, k = g.transpose_a ? rows(g.a) : g.a.cols;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (g.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc description(describe(g.a, g.transpose_a, m, k), describe(g.b, g.transpose_b, k, n),
                                       describe(g.c, false, m, n));
  return {description, attributes, engine()};
}

Key key_of(const Gemm& g, bool capacity) {
  const auto rows = [&](const Tensor& t) { return capacity ? t.rows.capacity : t.rows.count; };
  const int64_t k = g.transpose_a ? rows(g.a) : g.a.cols;
  const int flags = (g.transpose_a ? 1 : 0) | (g.transpose_b ? 2 : 0) | (g.accumulate ? 4 : 0) |
                    (g.a.dtype == DType::f32 ? 8 : 0) | (g.b.dtype == DType::f32 ? 16 : 0) |
                    (g.c.dtype == DType::f32 ? 32 : 0);
  return {rows(g.c), g.c.cols, k, g.a.stride, g.b.stride, g.c.stride, flags};
}

Matmul& cached(const Gemm& g) {
  static std::map<Key, Matmul> cache;
  static std::mutex mutex;
  const Key key = key_of(g, false);
  const std::lock_guard lock(mutex);
  auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  // Unpacked data brings many row counts: drop the lot now and then instead of growing without end.
  if (cache.size() > 512) cache.clear();
  Matmul m;
  m.description = make(g, false);
  m.primitive = dnnl::matmul(m.description);
  m.a = dnnl::memory(m.description.src_desc(), engine(), nullptr);
  m.b = dnnl::memory(m.description.weights_desc(), engine(), nullptr);
  m.c = dnnl::memory(m.description.dst_desc(), engine(), nullptr);
  m.scratchpad = dnnl::memory(m.description.scratchpad_desc(), engine(), nullptr);
  return cache.emplace(key, std::move(m)).first->second;
}

}  // namespace

void sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
           const float* b, int64_t ldb, bool accumulate, float* c, int64_t ldc) {
  const auto status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb,
                                 accumulate ? 1.0f : 0.0f, c, ldc);
  if (status != dnnl_success) fail("oneDNN sgemm failed with status {} for M={} N={} K={}", static_cast<int>(status), m, n, k);
}

// oneDNN is column-major inside, so its M is our N. Blocks of its AVX-512 kernel; those of others are smaller.
uint64_t sgemm_hidden_bytes(int64_t n, int64_t k) {
  constexpr int64_t kBlockM = 9984, kBlockK = 768;
  return static_cast<uint64_t>(std::min(n, omp_get_max_threads() * kBlockM) * std::min(k, kBlockK)) * sizeof(float);
}

bool bf16_hardware() {
  static const bool found = [] {
    if (bf16_provider() == Bf16Provider::onednn) return true;
    if (bf16_provider() == Bf16Provider::convert) return false;
    const auto isa = dnnl::get_effective_cpu_isa();
    return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
  }();
  return found;
}

bool matrix_tiles() { return dnnl::get_effective_cpu_isa() == dnnl::cpu_isa::avx512_core_amx; }

// oneDNN may want a little more for other row counts than for full capacity: a quarter is kept in reserve. Asking takes it
// some time, and a step asks for the same few shapes again and again.
uint64_t bf16_workspace(const Gemm& args) {
  static std::map<Key, uint64_t> known;
  static std::mutex mutex;
  const Key key = key_of(args, true);
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() > 4096) known.clear();
  return known[key] = make(args, true).scratchpad_desc().get_size() * 5 / 4;
}

void bf16_gemm(const GemmCall& call) {
  const Gemm& g = call.args;
  Matmul& m = cached(g);
  m.a.set_data_handle(g.a.data);
  m.b.set_data_handle(g.b.data);
  m.c.set_data_handle(g.c.data);
  const uint64_t wanted = m.description.scratchpad_desc().get_size();
  static thread_local std::string spare;  // only when a shape wants more than the reserve
  void* scratch = call.workspace;
  if (wanted > bf16_workspace(g)) {
    if (spare.size() < wanted) spare.resize(wanted);
    scratch = spare.data();
  }
  m.scratchpad.set_data_handle(scratch);
  static dnnl::stream stream(engine());
  m.primitive.execute(stream, {{DNNL_ARG_SRC, m.a}, {DNNL_ARG_WEIGHTS, m.b}, {DNNL_ARG_DST, m.c},
                               {DNNL_ARG_SCRATCHPAD, m.scratchpad}});
  stream.wait();
}

const char* bf16_implementation(const Gemm& args) {
  static std::string name;
  name = make(args, false).impl_info_str();
  return name.c_str();
}

}  // namespace attune::ops::onednn
