// Optimizer sweeps over one matrix, each tensor beyond the caches.
#include "bench.h"
#include "nn/parameter.h"
#include "ops/backend.h"
#include "optim/optimizer.h"
#include "util/rng.h"

namespace attune::bench_kernels {
namespace {

struct Case {
  const char* shown;
  const char* name;
  DType weights;
  bool masters;
  DType gradient;
};

void fill(const Tensor& t, uint64_t key, float scale) {
  std::vector<float> x(static_cast<size_t>(t.count()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = scale * (uniform_float(element_bits(key, i)) - 0.5f);
  convert(x.data(), DType::f32, t.data, t.dtype, x.size());
}

void line(const Options& options, const Case& c, int64_t rows, int64_t cols) {
  nn::ParameterStore store;
  nn::Parameter& p = store.add("model.layers.0.mlp.up_proj.weight", {rows, cols});
  store.allocate_weights(Place::host(), c.weights);
  if (c.masters) store.allocate_masters(Place::host());
  p.gradient_dtype = c.gradient;
  store.allocate_gradients(Place::host(), {&p});
  fill(p.stepped(), 1, 0.1f);
  fill(p.gradient, 2, 0.01f);
  optim::OptimizerOptions o;
  o.name = c.name;
  o.weight_decay = 0.1f;
  o.state_dtype = c.weights == DType::bf16 && !c.masters ? DType::bf16 : DType::f32;
  const auto optimizer = optim::Optimizer::create(o);
  optimizer->allocate(Place::host(), store);
  // Each tensor once, or twice where it is written too; Adafactor reads gradient and (for its size) weight again.
  double bytes = static_cast<double>(p.gradient.bytes() + 2 * p.stepped().bytes() + (p.master.defined() ? p.weight.bytes() : 0));
  for (const auto& state : optimizer->states()) bytes += 2 * static_cast<double>(state.tensor.bytes());
  if (o.name == "adafactor") bytes += 2 * static_cast<double>(p.gradient.bytes());
  // The refreshed copy is fetched before it is overwritten.
  const double fetched = p.master.defined() ? static_cast<double>(p.weight.bytes()) : 0;
  ops::Context context(ops::cpu_backend(), arena());
  int64_t step = 0;
  const auto n = static_cast<double>(p.count());
  const Sample s = alternate(options.rounds, bytes + fetched, axpy_bandwidth, {[&] { optimizer->step(context, p, ++step, 1e-4f, 1); }})[0];
  const double own = bytes / (bytes + fetched);
  fmt::print("{:32} {:6.1f} {:6.1f} {:6.2f} {:6.0f} %  {:6.0f} %\n", c.shown, bytes / n, s.rate * own / 1e9, 1e9 * (bytes + fetched) / s.rate / n, 100 * s.share * own, 100 * s.share);
}

}  // namespace

void optimizers(const Options& options) {
  constexpr int64_t kRows = 16384, kCols = 2048;
  fmt::print("\noptimizers, {} x {}, {}, {} threads: bytes a parameter, GB/s, ns a parameter, share of axpy; the same with output lines that are fetched first\n",
             kRows, kCols, ops::cpu_backend().name, omp_get_max_threads());
  constexpr DType kWide = DType::f32, kNarrow = DType::bf16;
  for (const Case& c : {Case{"AdamW, fp32", "adamw", kWide, false, kWide}, Case{"AdamW, fp32 master, bf16 copy", "adamw", kNarrow, true, kWide},
                        Case{"AdamW, pure bf16", "adamw", kNarrow, false, kNarrow}, Case{"8-bit AdamW, bf16", "adamw_8bit", kNarrow, false, kNarrow},
                        Case{"8-bit AdamW, fp32", "adamw_8bit", kWide, false, kWide}, Case{"8-bit Lion, bf16", "lion_8bit", kNarrow, false, kNarrow},
                        Case{"Adafactor, bf16", "adafactor", kNarrow, false, kNarrow}, Case{"Adafactor, fp32", "adafactor", kWide, false, kWide}})
    if (std::string(c.shown).find(options.layer) != std::string::npos) line(options, c, kRows, kCols);
}

}  // namespace attune::bench_kernels
