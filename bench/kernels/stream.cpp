// What is done once to each element: the time should be that of the memory it moves.
#include <numeric>

#include "bench.h"
#include "ops/backend.h"
#include "util/rng.h"

namespace attune::bench_kernels {
namespace {

constexpr double kBeyondCaches = 300e6;  // bytes of all operands of a stream

// Several sets of operands, taken in turn: each is out of every cache when its turn comes again.
class Turns {
 public:
  explicit Turns(double bytes) : count_(std::max<int64_t>(1, static_cast<int64_t>(kBeyondCaches / bytes))) {}
  // The next set of a matrix that holds all sets one below the other.
  Tensor of(const Memory& all) const { return all.tensor.slice(at_ * rows(all), rows(all)); }
  Memory make(DType dtype, int64_t rows, int64_t cols, uint64_t seed) const { return {dtype, rows * count_, cols, seed}; }
  void next() { at_ = (at_ + 1) % count_; }

 private:
  int64_t rows(const Memory& all) const { return all.tensor.rows.count / count_; }
  int64_t count_, at_ = 0;
};

class Table {
 public:
  Table(const Options& options, int64_t rows) : options_(options), context_(ops::cpu_backend(), arena()), rows_(rows) {}
  ops::Context& context() { return context_; }

  // `moved`: bytes an element of the op's own definition reads and writes; `fetched`: bytes of output that the caches read before
  // they are overwritten, which is traffic too where the op writes what it has not read.
  template <class F>
  void line(const std::string& name, double elements, double moved, double fetched, Turns& turns, F&& run) {
    const Sample s = alternate(options_.rounds, elements * (moved + fetched), axpy_bandwidth, {[&] { run(), turns.next(); }})[0];
    fmt::print("{:44} {:6} {:6.1f} {:6.0f} %  {:6.0f} %\n", name, rows_, s.rate * moved / (moved + fetched) / 1e9, 100 * s.share * moved / (moved + fetched), 100 * s.share);
  }

 private:
  const Options& options_;
  ops::Context context_;
  int64_t rows_;
};

void norms(Table& t, const std::string& model, int64_t n, int64_t d) {
  const double elements = static_cast<double>(n * d);
  Turns turns(8 * elements);
  const Memory x = turns.make(DType::bf16, n, d, 1), y = turns.make(DType::bf16, n, d, 2), dy = turns.make(DType::bf16, n, d, 3), dx = turns.make(DType::bf16, n, d, 4);
  const Memory weight(DType::bf16, 1, d, 5), rstd(DType::f32, 1, n, 6), dweight(DType::f32, 1, d, 7);
  t.line(model + " RMSNorm forward", elements, 4, 2, turns, [&] { ops::rms_norm_forward(t.context(), {turns.of(x), weight.tensor, 1e-6f, turns.of(y), rstd.tensor}); });
  t.line(model + " RMSNorm backward, added", elements, 8, 0, turns, [&] {
    ops::rms_norm_backward(t.context(), {turns.of(x), weight.tensor, rstd.tensor, turns.of(dy), turns.of(dx), true, dweight.tensor, true, {}});
  });
  t.line(model + " add (residual)", elements, 6, 0, turns, [&] { ops::add(t.context(), {turns.of(x), turns.of(y), turns.of(y)}); });
  const Tensor all = x.tensor;
  t.line(model + " squared norm", static_cast<double>(all.count()), 2, 0, turns, [&] { ops::squared_norm(t.context(), all); });
}

void activations(Table& t, const std::string& model, int64_t n, int64_t f) {
  const double elements = static_cast<double>(n * f);
  Turns turns(6 * elements);
  const Memory x = turns.make(DType::bf16, n, 2 * f, 1), y = turns.make(DType::bf16, n, f, 2);
  t.line(model + " SwiGLU forward", elements, 6, 2, turns, [&] { ops::swiglu_forward(t.context(), {turns.of(x), turns.of(y)}); });
  // In place as in the model, with a gradient of 0, so that numbers stay finite however often it runs; no instruction looks at them.
  std::fill(y.tensor.as<uint16_t>(), y.tensor.as<uint16_t>() + y.tensor.count(), uint16_t{0});
  t.line(model + " SwiGLU backward", elements, 10, 0, turns, [&] { ops::swiglu_backward(t.context(), {turns.of(x), turns.of(y), turns.of(x)}); });
}

void rotations(Table& t, const std::string& model, int64_t n, int64_t heads, int64_t d) {
  const double elements = static_cast<double>(n * heads * d);
  Turns turns(2 * elements);
  const Memory x = turns.make(DType::bf16, n, heads * d, 1);
  Memory table(DType::f32, n, d, 2);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d / 2; ++j) table.tensor.row<float>(i)[j] = 0.6f, table.tensor.row<float>(i)[j + d / 2] = 0.8f;
  std::vector<int32_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), 0);
  const Tensor places = Tensor::vector(positions.data(), DType::i32, n);
  t.line(model + " RoPE", elements, 4, 0, turns, [&] { ops::rope(t.context(), {turns.of(x), places, table.tensor, heads}); });
}

void embedding(Table& t, const std::string& model, int64_t n, int64_t d, DType gradient) {
  constexpr int64_t kVocab = 151936;
  Turns turns(2.0 * static_cast<double>(n * d));
  const Memory dy = turns.make(DType::bf16, n, d, 1), dweight(gradient, kVocab, d, 2);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  uint64_t step = 0;
  t.line(model + " embedding backward, " + name_of(gradient), static_cast<double>(n * d), 2 + 2.0 * static_cast<double>(size_of(gradient)), 0, turns, [&] {
    for (int32_t& id : ids) id = static_cast<int32_t>(element_bits(1, step++) % kVocab);
    ops::embedding_backward(t.context(), {Tensor::vector(ids.data(), DType::i32, n), turns.of(dy), dweight.tensor, {}});
  });
}

void losses(Table& t, int64_t n) {
  constexpr int64_t kVocab = 151936;
  const double elements = static_cast<double>(n * kVocab);
  Turns turns(4 * elements);
  const Memory logits = turns.make(DType::f32, n, kVocab, 1), logp(DType::f32, 1, n, 2), lse(DType::f32, 1, n, 3), coefficient(DType::f32, 1, n, 4);
  std::vector<int32_t> labels(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) labels[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % kVocab);
  const Tensor words = Tensor::vector(labels.data(), DType::i32, n);
  t.line("token_logprob, V = 151936, fp32 logits", elements, 4, 0, turns, [&] { ops::token_logprob(t.context(), {turns.of(logits), words, logp.tensor, lse.tensor}); });
  t.line("logit_gradient, V = 151936, bf16 gradient", elements, 6, 0, turns, [&] {
    ops::logit_gradient(t.context(), {turns.of(logits), words, lse.tensor, coefficient.tensor, DType::bf16});
  });
}

}  // namespace

void streams(const Options& options) {
  fmt::print("\nstreams, bf16, {}, {} threads, out of cache: GB/s of operands, as a share of axpy; the same with output lines that are fetched first\n{:44} {:>6}\n",
             ops::cpu_backend().name, omp_get_max_threads(), "op", "rows");
  for (int64_t m : options.m.empty() ? std::vector<int64_t>{2048} : options.m) {
    Table t(options, m);
    const auto wanted = [&](const std::string& model) { return model.find(options.layer) != std::string::npos; };
    if (wanted("0.5B")) norms(t, "0.5B", m, 896), activations(t, "0.5B", m, 4864), rotations(t, "0.5B q", m, 14, 64), embedding(t, "0.5B", m, 896, DType::f32), embedding(t, "0.5B", m, 896, DType::bf16);
    if (wanted("1.5B")) norms(t, "1.5B", m, 1536), activations(t, "1.5B", m, 8960), rotations(t, "1.5B q", m, 12, 128), embedding(t, "1.5B", m, 1536, DType::f32);
  }
  if (options.layer.empty() || options.layer == "loss") {
    Table t(options, 256);
    losses(t, 256);
  }
}

}  // namespace attune::bench_kernels
