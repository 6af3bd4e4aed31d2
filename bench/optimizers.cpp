// Time of one optimizer sweep over one matrix beside that of fp32 AdamW, for the three ways of storing weights.
//
//   build/bench_optimizers [rows] [cols] [name …]      default 8192 2048, all optimizers and apollo_mini (rank 1)
//
// "GB/s" counts each tensor as read or written once; the copy line is what this machine reaches on plain memory.
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "nn/parameter.h"
#include "ops/backend.h"
#include "optim/optimizer.h"
#include "util/rng.h"

namespace {

using namespace attune;

struct Precision {
  const char* name;
  DType weights;
  bool masters;
};

double seconds_of(const std::function<void()>& f) {
  double best = 1e30;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

void fill(const Tensor& t, uint64_t key, float scale) {
  std::vector<float> x(static_cast<size_t>(t.count()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = scale * (uniform_float(element_bits(key, i)) - 0.5f);
  convert(x.data(), DType::f32, t.data, t.dtype, x.size());
}

void copy_line(int64_t count) {
  std::vector<float> a(static_cast<size_t>(count), 1.0f), b(a.size());
  const double s = seconds_of([&] {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; ++i) b[static_cast<size_t>(i)] = 2.0f * a[static_cast<size_t>(i)] + b[static_cast<size_t>(i)];
  });
  fmt::print("{:28} {:22} {:8.2f}            {:7.1f}\n", "axpy (fp32)", "", 1e9 * s / static_cast<double>(count), 12e-9 * static_cast<double>(count) / s);
}

void sweep_line(const std::string& name, const Precision& precision, int64_t rows, int64_t cols) {
  nn::ParameterStore store;
  nn::Parameter& p = store.add("model.layers.0.mlp.up_proj.weight", {rows, cols});
  store.allocate_weights(Place::host(), precision.weights);
  if (precision.masters) store.allocate_masters(Place::host());
  p.gradient_dtype = precision.weights;
  store.allocate_gradients(Place::host(), {&p});
  fill(p.stepped(), 1, 0.1f);
  fill(p.gradient, 2, 0.01f);
  optim::OptimizerOptions options;
  options.name = name == "apollo_mini" ? "apollo" : name;
  if (name == "apollo_mini") options.low_rank.rank = 1, options.low_rank.scale_type = "tensor", options.low_rank.scale = 128;
  options.weight_decay = 0.1f;
  options.state_dtype = precision.weights == DType::bf16 && !precision.masters ? DType::bf16 : DType::f32;
  const auto optimizer = optim::Optimizer::create(options);
  optimizer->allocate(Place::host(), store);
  double bytes = static_cast<double>(p.gradient.bytes() + 2 * p.stepped().bytes() + (p.master.defined() ? p.weight.bytes() : 0));
  for (const auto& state : optimizer->states()) bytes += 2 * static_cast<double>(state.tensor.bytes());
  Arena arena(Place::host(), uint64_t{8} << 30);
  ops::Context context(ops::cpu_backend(), arena);
  int64_t step = 1;
  optimizer->step(context, p, step, 1e-4f, 1);
  const double s = seconds_of([&] { optimizer->step(context, p, ++step, 1e-4f, 1); });
  const auto n = static_cast<double>(p.count());
  fmt::print("{:28} {:22} {:8.2f} {:10.2f} {:7.1f}\n", name, precision.name, 1e9 * s / n, bytes / n, 1e-9 * bytes / s);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 8192, cols = argc > 2 ? std::atoll(argv[2]) : 2048;
  std::vector<std::string> names(argv + std::min(argc, 3), argv + argc);
  if (names.empty()) {
    names = optim::Optimizer::names();
    names.push_back("apollo_mini");
  }
  fmt::print("{} x {}, {}, {} threads\n{:28} {:22} {:>8} {:>10} {:>7}\n", rows, cols, ops::cpu_backend().name,
             ops::cpu_backend().threads(), "optimizer", "weights", "ns/param", "B/param", "GB/s");
  copy_line(rows * cols);
  for (const std::string& name : names)
    for (const Precision& precision : {Precision{"f32", DType::f32, false}, {"bf16 + fp32 master", DType::bf16, true}, {"bf16", DType::bf16, false}})
      sweep_line(name, precision, rows, cols);
}
