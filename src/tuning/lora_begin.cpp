#include "tuning/lora_begin.h"

#include <algorithm>
#include <cmath>

#include "ops/backend.h"
#include "ops/gemm.h"
#include "ops/optimizer_low_rank.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::tuning {
namespace {

// Directions beyond the rank that the subspace of PiSSA carries along.
constexpr int64_t kOversampling = 8;

// Makes the columns of x [n, k] orthonormal (Gram–Schmidt, twice); a column that depends on those before it becomes zero.
void orthonormalise(const Tensor& x) {
  const int64_t n = x.rows.count, k = x.cols;
  std::vector<std::vector<double>> columns(static_cast<size_t>(k), std::vector<double>(static_cast<size_t>(n)));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j) columns[static_cast<size_t>(j)][static_cast<size_t>(i)] = x.row<float>(i)[j];
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (size_t j = 0; j < columns.size(); ++j) {
    const double before = std::sqrt(dot(columns[j], columns[j]));
    for (int pass = 0; pass < 2; ++pass)
      for (size_t l = 0; l < j; ++l) {
        const double along = dot(columns[l], columns[j]);
        for (size_t i = 0; i < columns[j].size(); ++i) columns[j][i] -= along * columns[l][i];
      }
    const double norm = std::sqrt(dot(columns[j], columns[j]));
    for (double& v : columns[j]) v = norm > 1e-7 * before ? v / norm : 0;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j) x.row<float>(i)[j] = static_cast<float>(columns[static_cast<size_t>(j)][static_cast<size_t>(i)]);
}

// The first singular vectors of w from the right into v [r, in]: exactly, or from a subspace that is iterated.
void right_vectors(ops::Context& context, const StartOptions& o, const std::string& name, const Tensor& w, const Tensor& v) {
  if (o.pissa_iterations < 0) return ops::singular_vectors(context, {w, v, true});
  ArenaScope scope(context.arena());
  const int64_t out = w.rows.count, in = w.cols, k = std::min({v.rows.count + kOversampling, out, in});
  const Tensor left = context.arena().matrix(Rows::exactly(out), k, DType::f32), right = context.arena().matrix(Rows::exactly(in), k, DType::f32);
  const Tensor small = context.arena().matrix(Rows::exactly(k), in, DType::f32);
  const uint64_t key = mix_key(o.seed, hash64(name), 0x5155);
  for (int64_t i = 0; i < right.count(); i += 2) {
    const auto [x, y] = normal_pair(element_bits(key, static_cast<uint64_t>(i)), element_bits(key, static_cast<uint64_t>(i) + 1));
    right.as<float>()[i] = x;
    if (i + 1 < right.count()) right.as<float>()[i + 1] = y;
  }
  for (int64_t i = 0; i <= o.pissa_iterations; ++i) {
    ops::gemm(context, {w, right, left, false, false, false});
    orthonormalise(left);
    ops::gemm(context, {w, left, right, true, false, false});
    if (i < o.pissa_iterations) orthonormalise(right);
  }
  ops::gemm(context, {left, w, small, true, false, false});
  ops::singular_vectors(context, {small, v, true});
}

void pissa(ops::Context& context, const StartOptions& o, const std::string& name, const Tensor& w, float scale, const Tensor& a, const Tensor& b) {
  right_vectors(context, o, name, w, a);
  ops::gemm(context, {w, a, b, false, true, false});  // σ·u
  for (int64_t k = 0; k < a.rows.count; ++k) {
    double squares = 0;
    for (int64_t i = 0; i < b.rows.count; ++i) squares += static_cast<double>(b.row<float>(i)[k]) * b.row<float>(i)[k];
    const double sigma = std::sqrt(squares), half = std::sqrt(sigma / scale);
    for (int64_t i = 0; i < b.rows.count; ++i) b.row<float>(i)[k] = sigma > 0 ? static_cast<float>(b.row<float>(i)[k] / sigma * half) : 0.0f;
    for (int64_t j = 0; j < a.cols; ++j) a.row<float>(k)[j] *= static_cast<float>(half);
  }
}

void olora(ops::Context& context, const Tensor& w, const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < b.rows.count; ++i) std::copy_n(w.row<float>(i), b.cols, b.row<float>(i));
  orthonormalise(b);
  ops::gemm(context, {b, w, a, true, false, false});
}

// On the host, wherever t lies.
Tensor in_fp32(Arena& arena, Device& device, const Tensor& t) {
  const Tensor out = arena.matrix(t.rows, t.cols, DType::f32);
  get(device, t, 0, {out.as<float>(), static_cast<size_t>(t.count())});
  return out;
}

// Memory of which only what is used is taken.
constexpr uint64_t kAddresses = uint64_t{1} << 36;

}  // namespace

void decompose(const StartOptions& o, const nn::Parameter& weight, float scale, const Tensor& a, const Tensor& b) {
  if (a.rows.count > std::min(a.cols, b.rows.count))
    refuse("lora_rank: {} is more than {} [{}, {}] has singular values; pissa_init and olora need a smaller one", a.rows.count, weight.name,
           b.rows.count, a.cols);
  Arena arena(Place::host(), kAddresses);
  ops::Context context(ops::cpu_backend(), arena);
  const Tensor w = in_fp32(arena, *weight.device, weight.weight);
  if (o.how == LoraStart::pissa) pissa(context, o, weight.name, w, scale, a, b);
  else olora(context, w, a, b);
}

void take_out(nn::Parameter& weight, float scale, const Tensor& a, const Tensor& b) {
  Arena arena(Place::host(), kAddresses);
  ops::Context context(ops::cpu_backend(), arena);
  const Tensor w = in_fp32(arena, *weight.device, weight.weight), less = arena.matrix(b.rows, b.cols, DType::f32);
  ops::scale(context, {in_fp32(arena, *weight.device, b), less, -scale, false});
  ops::gemm(context, {less, in_fp32(arena, *weight.device, a), w, false, false, true});
  put(*weight.device, weight.weight, 0, {w.as<float>(), static_cast<size_t>(w.count())});
}

}  // namespace attune::tuning
