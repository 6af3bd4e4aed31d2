// Speed of the kernels at the shapes of models, as a share of what this machine reaches.
//
//   bench_kernels [gemm|fp32|gemv|attention|stream|optim|head]… [--rounds N] [--m M]… [--layer NAME] [--processor-time]
//   bench_kernels peak        the pace of the machine at this moment, as JSON, in a third of a second
#include <array>
#include <cmath>
#include <cstring>

#include "bench.h"
#include "ops/backend.h"
#include "ops/blas/onednn.h"

namespace attune::bench_kernels {
namespace {

struct Layer {
  const char* name;
  int64_t out, in;
};
const std::vector<Layer> kLayers{
    {"0.5B q,o", 896, 896},      {"0.5B k,v", 128, 896},       {"0.5B gate+up", 9728, 896}, {"0.5B down", 896, 4864},
    {"0.5B head slab", 18992, 896}, {"1.5B q,o", 1536, 1536},   {"1.5B gate+up", 17920, 1536}, {"1.5B down", 1536, 8960},
    {"7B q,o", 3584, 3584},      {"7B gate+up", 37888, 3584},  {"7B down", 3584, 18944},
};

void onednn_product(const ops::Gemm& g) {
  if (g.a.dtype == DType::f32) {
    const int64_t k = g.transpose_a ? g.a.rows.count : g.a.cols;
    return ops::onednn::sgemm(g.transpose_a, g.transpose_b, g.c.rows.count, g.c.cols, k, g.a.as<float>(), g.a.stride, g.b.as<float>(),
                              g.b.stride, g.accumulate, g.c.as<float>(), g.c.stride);
  }
  ArenaScope scope(arena());
  const uint64_t bytes = ops::onednn::bf16_workspace(g);
  ops::onednn::bf16_gemm({g, bytes ? arena().allocate(bytes) : nullptr});
}

void roles(const Options& options, DType dtype) {
  ops::Context context(ops::cpu_backend(), arena());
  const auto peak = dtype == DType::bf16 ? bf16_peak : fp32_peak;
  fmt::print("\n{} GEMM, {}, {} threads: GFLOP/s (share of peak), own | oneDNN\n", name_of(dtype), ops::cpu_backend().name, omp_get_max_threads());
  fmt::print("{:16} {:>5}  {:^28}  {:^28}  {:^28}\n", "layer", "M", "forward", "dX", "dW += (fp32)");
  for (const Layer& l : kLayers) {
    if (!std::strstr(l.name, options.layer.c_str())) continue;
    for (int64_t m : options.m.empty() ? std::vector<int64_t>{256, 1024, 2048} : options.m) {
      const Memory x(dtype, m, l.in, 1), w(dtype, l.out, l.in, 2), y(dtype, m, l.out, 3), dw(DType::f32, l.out, l.in, 4);
      fmt::print("{:16} {:5}", l.name, m);
      for (const ops::Gemm& g : {ops::Gemm{x.tensor, w.tensor, y.tensor, false, true, false}, ops::Gemm{y.tensor, w.tensor, x.tensor, false, false, false},
                                 ops::Gemm{y.tensor, x.tensor, dw.tensor, true, false, true}}) {
        const auto s = alternate(options.rounds, 2.0 * static_cast<double>(m * l.out * l.in), peak,
                                 {[&] { ops::gemm(context, g); }, [&] { onednn_product(g); }});
        fmt::print("  {} | {}", show(s[0]), show(s[1]));
        }
      fmt::print("\n");
    }
  }
}

// Decoding: weights of many layers, so that none is still in a cache when its turn comes again.
void gemv(const Options& options, DType dtype) {
  ops::Context context(ops::cpu_backend(), arena());
  fmt::print("\n{} products of few rows, {} threads: GB/s of weights (share of read bandwidth), own | oneDNN\n", name_of(dtype), omp_get_max_threads());
  for (const Layer& l : kLayers) {
    if (!std::strstr(l.name, options.layer.c_str())) continue;
    const auto bytes = static_cast<double>(l.out * l.in) * size_of(dtype);
    const int64_t copies = std::max<int64_t>(1, static_cast<int64_t>(300e6 / bytes));
    const Memory w(dtype, l.out * copies, l.in, 2);
    for (int64_t m : options.m.empty() ? std::vector<int64_t>{1, 2, 4, 8} : options.m) {
      const Memory x(dtype, m, l.in, 1), y(dtype, m, l.out, 3);
      const auto all = [&](auto&& product) {
        for (int64_t c = 0; c < copies; ++c) product(ops::Gemm{x.tensor, w.tensor.slice(c * l.out, l.out), y.tensor, false, true, false});
      };
      const auto s = alternate(options.rounds, bytes * static_cast<double>(copies), read_bandwidth,
                               {[&] { all([&](const ops::Gemm& g) { ops::gemm(context, g); }); }, [&] { all(onednn_product); }});
      fmt::print("{:16} {:5}  {} | {}\n", l.name, m, show(s[0]), show(s[1]));
    }
  }
}

void attention(const Options& options) {
  ops::Context context(ops::cpu_backend(), arena());
  // The kernels that compute in fp32.
  const ops::Backend* wide = ops::cpu_backends().front();
  for (const ops::Backend* b : ops::cpu_backends())
    if (std::strcmp(b->name, "cpu (avx512_bf16)") != 0) wide = b;
  ops::Context fp32(*wide, arena());
  fmt::print("\nbf16 causal attention, {} threads: GFLOP/s (share of bf16 peak), this backend | fp32 products\n{:>6} {:>4} {:>6}  {:^28}  {:^28}\n", omp_get_max_threads(), "T", "hd", "heads", "forward", "backward");
  for (auto [heads, kv, d] : {std::array<int64_t, 3>{14, 2, 64}, std::array<int64_t, 3>{12, 2, 128}})
    for (int64_t t : {512, 1024, 2048, 4096}) {
      const Memory q(DType::bf16, t, heads * d, 1), k(DType::bf16, t, kv * d, 2), v(DType::bf16, t, kv * d, 3), out(DType::bf16, t, heads * d, 4),
          dout(DType::bf16, t, heads * d, 5), dq(DType::bf16, t, heads * d, 6), dk(DType::bf16, t, kv * d, 7), dv(DType::bf16, t, kv * d, 8),
          lse(DType::f32, t, heads, 9);
      const std::vector<int32_t> cu{0, static_cast<int32_t>(t)};
      const Tensor bounds = Tensor::vector(const_cast<int32_t*>(cu.data()), DType::i32, 2);
      ops::AttentionShape s;
      s.heads = heads, s.kv_heads = kv, s.head_dim = d, s.scale = 1.0f / std::sqrt(static_cast<float>(d)), s.max_q = t, s.max_k = t;
      const double flops = 2.0 * static_cast<double>(t * t * heads * d);
      const auto run_forward = [&](ops::Context& c) {
        ops::attention_forward(c, {s, q.tensor, k.tensor, v.tensor, bounds, bounds, out.tensor, lse.tensor, {}});
      };
      const auto run_backward = [&](ops::Context& c) {
        ops::attention_backward(c, {s, q.tensor, k.tensor, v.tensor, bounds, bounds, out.tensor, lse.tensor, dout.tensor, dq.tensor, dk.tensor, dv.tensor, {}});
      };
      const auto forward = alternate(options.rounds, flops, bf16_peak, {[&] { run_forward(context); }, [&] { run_forward(fp32); }});
      const auto backward = alternate(options.rounds, 2.5 * flops, bf16_peak, {[&] { run_backward(context); }, [&] { run_backward(fp32); }});
      fmt::print("{:6} {:4} {:6}  {} | {}  {} | {}\n", t, d, heads, show(forward[0]), show(forward[1]), show(backward[0]), show(backward[1]));
    }
}

void print_peak(int rounds) {
  std::vector<double> bf16, fp32, read;
  read_bandwidth();  // the first call also touches its memory
  for (int i = 0; i < rounds; ++i) bf16.push_back(bf16_peak()), fp32.push_back(fp32_peak()), read.push_back(read_bandwidth());
  fmt::print("{{\"bf16_gflops\": {:.1f}, \"fp32_gflops\": {:.1f}, \"read_gbs\": {:.2f}}}\n", median(bf16) / 1e9, median(fp32) / 1e9, median(read) / 1e9);
}

const std::array<std::string, 8> kParts{"gemm", "fp32", "gemv", "attention", "stream", "optim", "head", "peak"};

}  // namespace
}  // namespace attune::bench_kernels

int main(int argc, char** argv) {
  using namespace attune::bench_kernels;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // each line when it is known, into a file too
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--rounds" && i + 1 < argc) options.rounds = std::max(1, std::atoi(argv[++i]));
    else if (a == "--m" && i + 1 < argc) options.m.push_back(std::max(1, std::atoi(argv[++i])));
    else if (a == "--layer" && i + 1 < argc) options.layer = argv[++i];
    else if (a == "--processor-time") clock_used = Clock::processor;
    else if (std::find(kParts.begin(), kParts.end(), a) != kParts.end()) options.what.push_back(a);
    else {
      fmt::print(stderr, "error: unknown argument \"{}\"; usage: bench_kernels [{}]... [--rounds N] [--m M]... [--layer NAME] [--processor-time]\n", a,
                 fmt::join(kParts, "|"));
      return 2;
    }
  }
  if (options.what == std::vector<std::string>{"peak"}) {
    print_peak(options.rounds);
    return 0;
  }
  for (int i = 0; i < 3; ++i)
    fmt::print("peak: bf16 {:.0f}, fp32 {:.0f} GFLOP/s; read {:.1f}, axpy {:.1f} GB/s\n", bf16_peak() / 1e9, fp32_peak() / 1e9, read_bandwidth() / 1e9,
               axpy_bandwidth() / 1e9);
  if (options.wants("gemm")) roles(options, attune::DType::bf16);
  if (options.wants("fp32")) roles(options, attune::DType::f32);
  if (options.wants("gemv")) gemv(options, attune::DType::bf16), gemv(options, attune::DType::f32);
  if (options.wants("attention")) attention(options);
  if (options.wants("stream")) streams(options);
  if (options.wants("optim")) optimizers(options);
  if (options.wants("head")) head(options);
}
