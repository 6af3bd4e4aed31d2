#include "bench/bench.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "bench/peak.h"
#include "infer/session.h"
#include "models/load.h"
#include "plan/planner.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/rng.h"

namespace attune::bench {
namespace {

using ops::Job;
using ops::OpClock;
using plan::is_attention;
using plan::is_product;
using train::RunSetup;

constexpr double kSteady = 1.05;  // what a speed may change by around a step that counts

Step random_step(const RunSetup& s) {
  const train::Config& c = s.config;
  Step step;
  uint64_t n = 0;
  std::vector<int32_t> ids;
  ids.resize(static_cast<size_t>(c.cutoff_len));
  std::vector<float> weights;
  weights.resize(ids.size(), 1.0f);
  for (int64_t m = 0; m < c.gradient_accumulation_steps; ++m) {
    MicroBatch& batch = step.micro_batches.emplace_back();
    for (int64_t i = 0; i < c.per_device_train_batch_size; ++i) {
      for (int32_t& id : ids) id = static_cast<int32_t>(mix_key(n++) % static_cast<uint64_t>(s.architecture.vocab_size));
      batch.add_sequence(i, ids, weights, static_cast<int32_t>(i));
    }
    step.total_weight += batch.total_weight();
  }
  return step;
}

std::string role_of(const Job& job) {
  if (job.op == "gemm_nt") return "forward";
  if (job.op == "gemm_nn") return "input gradient";
  if (job.op == "gemm_tn") return "weight gradient";
  if (job.op == "optimizer") return "update";
  return job.op.find("backward") != job.op.npos || job.op == "logit_gradient" ? "backward" : "forward";
}

std::string op_of(const Job& job) {
  if (is_product(job)) return "gemm";
  std::string op(job.op);
  for (const char* end : {"_forward", "_backward"})
    if (op.ends_with(end)) op.resize(op.size() - std::string_view(end).size());
  return op;
}

// rows × out × in of a product, heads and width of attention, columns of the rest.
std::string shape_of(const Job& job, const ops::Ledger::Entry& done) {
  const int64_t rows = std::llround(done.rows / done.calls);
  if (job.op == "gemm_tn") return fmt::format("{} x {} x {}", rows, job.shape[0], job.shape[1]);
  if (job.op == "gemm_nn") return fmt::format("{} x {} x {}", rows, job.shape[1], job.shape[0]);
  if (job.op == "gemm_nt") return fmt::format("{} x {} x {}", rows, job.shape[0], job.shape[1]);
  if (is_attention(job)) return fmt::format("{} x {}/{} heads x {}", rows, job.shape[0], job.shape[1], job.shape[2]);
  return rows > 0 ? fmt::format("{} x {}", rows, job.shape[0]) : "";
}

Kernel kernel_of(const Job& job, const OpClock::Entry& entry, double matrix_peak, double axpy) {
  Kernel k{op_of(job), role_of(job), shape_of(job, entry.done), entry.done.calls, entry.seconds};
  k.by_bytes = !is_product(job) && !is_attention(job);
  k.rate = (k.by_bytes ? entry.done.work.bytes : entry.done.work.flops) / entry.seconds;
  const double most = k.by_bytes ? axpy : matrix_peak;
  k.share = most > 0 ? k.rate / most : 0;
  return k;
}

std::string part_of(const Job& job, int64_t vocabulary) {
  if (is_product(job)) {
    const bool head = std::find(job.shape.begin(), job.shape.end(), vocabulary) != job.shape.end();
    return head ? "products of the head" : job.op == "gemm_nt" ? "forward products" : job.op == "gemm_nn" ? "input gradients" : "weight gradients";
  }
  if (is_attention(job)) return "attention";
  if (job.op.starts_with("rms_norm")) return "norms";
  if (job.op.starts_with("swiglu")) return "gated activation";
  if (job.op == "optimizer") return "optimizer";
  if (job.op == "squared_norm") return "norm of gradients";
  if (job.op == "token_logprob" || job.op == "logit_gradient" || job.op == "logprob_slab") return "loss";
  if (job.op.starts_with("embedding")) return "embedding";
  if (job.op.starts_with("dequantize")) return "dequantised weights";
  return "everything else";
}

void describe_step(const OpClock& clock, int64_t vocabulary, double peak, Result& r) {
  std::map<std::string, double> parts{{"everything else", clock.outside()}};
  for (const auto& [job, entry] : clock.entries()) {
    parts[part_of(job, vocabulary)] += entry.seconds;
    r.kernels.push_back(kernel_of(job, entry, peak, r.axpy_bytes));
  }
  std::sort(r.kernels.begin(), r.kernels.end(), [](const Kernel& a, const Kernel& b) { return a.seconds > b.seconds; });
  for (const auto& [name, seconds] : parts) r.parts.push_back({name, seconds});
  std::sort(r.parts.begin(), r.parts.end(), [](const Part& a, const Part& b) { return a.seconds > b.seconds; });
}

struct Timed {
  OpClock clock;
  double peak = 0;  // around the step
  double change = 1;
  double mfu = 0;
};

Generation generate(models::Decoder& model, DType compute, double read_bytes) {
  constexpr int64_t kPrompt = 16, kTokens = 24;
  std::vector<int32_t> prompt;
  for (uint64_t i = 0; i < kPrompt; ++i) prompt.push_back(static_cast<int32_t>(mix_key(i) % static_cast<uint64_t>(model.config().vocab_size)));
  infer::Session session(model, compute, "bench");
  infer::GenerateOptions options;
  options.max_new_tokens = kTokens;
  infer::Listener listener;
  std::vector<double> times;
  double last = 0;
  listener.on_token = [&](size_t, int32_t) {
    const double now = seconds_now();
    if (last > 0) times.push_back(now - last);
    last = now;
    return true;
  };
  session.generate(prompt, options, listener);
  std::sort(times.begin(), times.end());
  const double middle = times[times.size() / 2];
  double bytes = 0;
  for (const auto& p : model.parameters().all())
    if (p.get() != &model.embedding() || model.config().tie_word_embeddings) bytes += static_cast<double>(p->weight_bytes());
  return {1 / middle, bytes / middle / read_bytes};
}

}  // namespace

double flops_per_token(const models::DecoderConfig& c, int64_t length) {
  const auto d = static_cast<double>(c.hidden_size), q = static_cast<double>(c.num_attention_heads * c.head_dim);
  const auto kv = static_cast<double>(c.num_key_value_heads * c.head_dim), ff = static_cast<double>(c.intermediate_size);
  const auto layers = static_cast<double>(c.num_hidden_layers);
  const double weights = layers * (2 * d * q + 2 * d * kv + 3 * d * ff) + static_cast<double>(c.vocab_size) * d;
  return 6 * weights + 6 * layers * static_cast<double>(length) * q;
}

Result run(const RunSetup& s, int steps) {
  Result r;
  r.threads = omp_get_max_threads();
  r.flops_per_token = flops_per_token(s.architecture, s.config.cutoff_len);
  const DType compute = s.engine.compute;
  models::Decoder model(s.architecture);
  train::allocate_model(model, s.engine, s.engine.backend->device());
  models::initialise_weights(model, 42);
  train::Engine engine(model, *s.objective, s.engine, s.engine.backend->device(), plan::activation_bytes(s));
  r.model = fmt::format("{}, {:.4g} M parameters, {} x {} tokens, {}, {}", s.architecture.family, static_cast<double>(model.parameters().count()) / 1e6,
                        s.config.per_device_train_batch_size * s.config.gradient_accumulation_steps, s.config.cutoff_len,
                        s.config.pure_bf16 ? "pure bf16" : name_of(compute), s.config.optim);
  const Step step = random_step(s);
  for (const MicroBatch& b : step.micro_batches) r.tokens += b.token_count();
  r.axpy_bytes = axpy_bandwidth();

  std::vector<Timed> all;
  engine.step(step, 1, 1e-5f);  // touches memory
  double before = matrix_peak(compute);
  for (int64_t n = 0, good = 0; good < steps && n < 3 * steps; ++n) {
    Timed t;
    engine.context().watch(&t.clock);
    t.clock.start();
    engine.step(step, n + 2, 1e-5f);
    t.clock.stop();
    engine.context().watch(nullptr);
    const double after = matrix_peak(compute);
    t.peak = (before + after) / 2, t.change = std::max(before, after) / std::min(before, after);
    t.mfu = r.flops_per_token * static_cast<double>(r.tokens) / t.clock.total() / t.peak;
    before = after;
    good += t.change <= kSteady;
    info("step of {:.2f} s, {:.1f} % of {:.0f} GFLOP/s{}", t.clock.total(), 100 * t.mfu, t.peak / 1e9,
         t.change <= kSteady ? "" : "; the machine changed its speed meanwhile: not counted");
    all.push_back(std::move(t));
  }
  r.steady = std::any_of(all.begin(), all.end(), [](const Timed& t) { return t.change <= kSteady; });
  if (r.steady) std::erase_if(all, [](const Timed& t) { return t.change > kSteady; });
  std::sort(all.begin(), all.end(), [](const Timed& a, const Timed& b) { return a.mfu < b.mfu; });
  for (const Timed& t : all) r.seconds.push_back(t.clock.total()), r.mfu.push_back(t.mfu);
  const Timed& middle = all[all.size() / 2];
  r.step_seconds = middle.clock.total();
  r.step_mfu = middle.mfu;
  r.tokens_per_second = static_cast<double>(r.tokens) / r.step_seconds;
  r.bf16_flops = compute == DType::bf16 ? middle.peak : matrix_peak(DType::bf16);
  r.fp32_flops = compute == DType::f32 ? middle.peak : matrix_peak(DType::f32);
  r.peak_memory_bytes = peak_memory_bytes();
  describe_step(middle.clock, s.architecture.vocab_size, middle.peak, r);
  r.read_bytes = read_bandwidth();
  r.generation = generate(model, compute, r.read_bytes);
  return r;
}

}  // namespace attune::bench
