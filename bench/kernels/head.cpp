// Head and loss of nn::Head, forward and backward, beside the three products they cannot do without.
#include "nn/head.h"

#include "bench.h"
#include "ops/backend.h"
#include "util/rng.h"

namespace attune::bench_kernels {
namespace {

class HeadBench {
 public:
  HeadBench(int64_t rows, int64_t words, int64_t width, DType gradient)
      : rows_(rows), memory_(Place::host(), uint64_t{3} << 30), context_(ops::cpu_backend(), memory_), tape_(context_, hooks_),
        hidden_(DType::bf16, rows, width, 1), weight_(store_.add("lm_head.weight", {words, width})) {
    store_.allocate_weights(Place::host(), DType::bf16);
    weight_.gradient_dtype = gradient;
    store_.allocate_gradients(Place::host(), {&weight_});
    for (int64_t i = 0; i < weight_.count(); ++i)
      weight_.weight.as<BFloat16>()[i] = to_bf16(0.1f * (uniform_float(element_bits(3, static_cast<uint64_t>(i))) - 0.5f));
    for (int64_t i = 0; i < rows; ++i) {
      label_rows_.push_back(static_cast<int32_t>(i));
      labels_.push_back(static_cast<int32_t>(i * 7919 % words));
    }
    coefficients_.assign(label_rows_.size(), 1.0f / static_cast<float>(rows));
    logp_.resize(label_rows_.size());
  }

  void loss() {
    store_.begin_step();
    weight_.gradient_written = true;  // of an earlier micro-batch: added to, as the bare product adds
    ArenaScope scope(memory_);
    tape_.begin(true);
    nn::Value hidden = tape_.wrap(hidden_.tensor, true);
    const auto vector = [](auto& v, DType dtype) { return Tensor::vector(v.data(), dtype, static_cast<int64_t>(v.size())); };
    const nn::Targets targets{Rows::exactly(rows_), vector(label_rows_, DType::i32), vector(labels_, DType::i32), vector(coefficients_, DType::f32)};
    nn::Head(weight_).loss(tape_, hidden, targets, {vector(logp_, DType::f32), {}, 0, nullptr});
    tape_.backward();
  }

  // The same chunks; what the backward products read is whatever lies in the first half of the logits' rows.
  void products() {
    ArenaScope scope(memory_);
    const int64_t words = weight_.weight.rows.count, width = weight_.weight.cols, chunk = nn::Head(weight_).chunk_rows(rows_);
    const Tensor dhidden = memory_.matrix(Rows::exactly(rows_), width, DType::bf16);
    for (int64_t first = 0; first < rows_; first += chunk) {
      ArenaScope chunk_scope(memory_);
      const int64_t n = std::min(chunk, rows_ - first);
      const Tensor logits = memory_.matrix(Rows::exactly(n), words, DType::f32), h = hidden_.tensor.slice(first, n);
      ops::gemm(context_, {h, weight_.weight, logits, false, true, false});
      Tensor gradient = logits;
      gradient.dtype = DType::bf16, gradient.stride = 2 * logits.stride;
      ops::gemm(context_, {gradient, weight_.weight, dhidden.slice(first, n), false, false, false});
      ops::gemm(context_, {gradient, h, weight_.gradient, true, false, true});
    }
  }

 private:
  int64_t rows_;
  Arena memory_;
  ops::Context context_;
  nn::StepHooks hooks_;
  nn::Tape tape_;
  nn::ParameterStore store_;
  Memory hidden_;
  nn::Parameter& weight_;
  std::vector<int32_t> label_rows_, labels_;
  std::vector<float> coefficients_, logp_;
};

}  // namespace

void head(const Options& options) {
  constexpr int64_t kWords = 151936;
  fmt::print("\nhead and loss, V = {}, bf16, {}, {} threads: GFLOP/s of the three products (share of what they reach alone)\n",
             kWords, ops::cpu_backend().name, omp_get_max_threads());
  for (const auto& [name, width] : {std::pair<std::string, int64_t>{"0.5B", 896}, {"1.5B", 1536}}) {
    if (name.find(options.layer) == std::string::npos) continue;
    for (int64_t rows : options.m.empty() ? std::vector<int64_t>{2048} : options.m) {
      HeadBench bench(rows, kWords, width, DType::f32);
      const double flops = 6.0 * static_cast<double>(rows * kWords * width);
      const Sample s = alternate(options.rounds, flops, [&] { return flops / seconds([&] { bench.products(); }); }, {[&] { bench.loss(); }})[0];
      fmt::print("{:6} R = {:5}  {}\n", name, rows, show(s));
    }
  }
}

}  // namespace attune::bench_kernels
