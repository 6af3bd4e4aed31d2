#include "plan/planner.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <nlohmann/json.hpp>
#include <tuple>

#include "ops/backend.h"
#include "train/samples.h"
#include "util/error.h"
#include "util/machine.h"

namespace attune::plan {
namespace {

using train::EngineOptions;
using train::MemoryParts;

struct DryResult {
  MemoryParts parts;
  ops::Work work;
};

DryResult dry(const models::DecoderConfig& architecture, const objectives::Objective& objective, const EngineOptions& options) {
  models::Decoder model(architecture);
  train::allocate_model(model, options, Arena::Kind::dry);
  train::Engine engine(model, objective, options, Arena::Kind::dry, 0);
  engine.dry_run();
  return {engine.memory(), engine.step_work()};
}

// Median rate of `work` per call over about `budget` seconds.
template <class F>
double rate(double work, double budget, F&& call) {
  call();
  std::vector<double> rates;
  const double start = seconds_now();
  while (seconds_now() - start < budget) {
    const double t = seconds_now();
    call();
    rates.push_back(work / (seconds_now() - t));
  }
  std::nth_element(rates.begin(), rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

uint64_t sample_bytes(const train::RunSetup& s) {
  if (s.config.num_generation_samples == 0) return 0;
  models::Decoder model(s.architecture);
  train::allocate_model(model, s.engine, Arena::Kind::dry);
  model.prepare(Arena::Kind::dry, s.engine.capacity.max_seqlen);
  return train::generation_sample_bytes(s, model);
}

}  // namespace

MachinePace measure_pace(DType compute) {
  Arena arena(Arena::Kind::real, uint64_t{1} << 28);
  ops::Context context(ops::cpu_backend(), arena);
  constexpr int64_t kSize = 768, kCount = 4 << 20;
  const auto a = arena.matrix(Rows::exactly(kSize), kSize, compute), b = arena.matrix(Rows::exactly(kSize), kSize, compute),
             c = arena.matrix(Rows::exactly(kSize), kSize, compute);
  for (const Tensor& t : {a, b, c}) ops::fill_zero(context, t);
  const auto x = arena.matrix(Rows::exactly(1024), kCount / 1024, DType::f32), y = arena.matrix(Rows::exactly(1024), kCount / 1024, DType::f32);
  for (const Tensor& t : {x, y}) ops::fill_zero(context, t);
  MachinePace pace;
  pace.matrix_flops = rate(2.0 * kSize * kSize * kSize, 0.4, [&] { ops::gemm(context, {a, b, c, false, true, false}); });
  pace.axpy_bytes = rate(12.0 * kCount, 0.3, [&] { ops::scale(context, {x, y, 1.0f, true}); });
  return pace;
}

uint64_t activation_bytes(const train::RunSetup& s) { return dry(s.architecture, *s.objective, s.engine).parts.activations; }

Plan make_plan(const train::RunSetup& s, bool with_pace) {
  const DryResult result = dry(s.architecture, *s.objective, s.engine);
  Plan plan;
  plan.parts = result.parts;
  plan.sample_bytes = sample_bytes(s);
  // What is resident now (program, tokenizer, data) plus what the math library takes when it first computes.
  plan.program_bytes = resident_memory_bytes() + 24'000'000;
  plan.available_bytes = available_memory_bytes() + resident_memory_bytes();
  plan.step_flops = result.work.flops;
  plan.step_bytes = result.work.bytes;
  plan.steps = s.total_steps;
  const double epochs = s.total_steps > 0 ? static_cast<double>(s.total_steps) / static_cast<double>(s.train_batches->steps_in_epoch(0)) : 0;
  plan.tokens = static_cast<int64_t>(epochs * static_cast<double>(s.train_set->total_tokens()));
  if (!with_pace) return plan;
  const MachinePace pace = measure_pace(s.engine.compute);
  // Matrix work reaches most of the measured peak; what moves memory runs beside it, not over it. A step at capacity is
  // scaled to the tokens the data really has.
  const double capacity_tokens = static_cast<double>(s.engine.capacity.tokens * s.engine.micro_batches);
  const double real_tokens = static_cast<double>(plan.tokens) / static_cast<double>(std::max<int64_t>(1, plan.steps));
  uint64_t sweep = 0;
  for (uint64_t part : {plan.parts.weights, plan.parts.masters, plan.parts.gradients, plan.parts.optimizer}) sweep += part;
  const double fixed = 2.0 * static_cast<double>(sweep) / pace.axpy_bytes;
  const double moving = std::max(0.0, plan.step_bytes - 2.0 * static_cast<double>(sweep));
  const double per_capacity = plan.step_flops / (0.8 * pace.matrix_flops) + moving / pace.axpy_bytes;
  const double per_step = fixed + per_capacity * real_tokens / capacity_tokens;
  plan.seconds = per_step * static_cast<double>(plan.steps);
  plan.tokens_per_second = plan.seconds > 0 ? static_cast<double>(plan.tokens) / plan.seconds : 0;
  return plan;
}

std::vector<Suggestion> suggestions(const train::RunSetup& s, const Plan& plan) {
  // One change each: what it is, what it costs, what it does to the engine. All combinations are tried.
  struct Change {
    std::string what;
    std::function<void(EngineOptions&)> make;
  };
  std::vector<Change> changes;
  const int64_t batch = s.config.per_device_train_batch_size;
  if (batch > 1)
    changes.push_back({fmt::format("per_device_train_batch_size: 1 with gradient_accumulation_steps: {}", s.engine.micro_batches * batch),
                       [batch](EngineOptions& o) {
                         o.capacity.tokens /= batch;
                         o.capacity.label_rows = std::max<int64_t>(1, o.capacity.label_rows / batch);
                         o.capacity.sequences = std::max<int64_t>(1, o.capacity.sequences / batch);
                         o.micro_batches *= batch;
                       }});
  if (s.engine.recompute == nn::Recompute::none)
    changes.push_back({"gradient_checkpointing: block (about a third slower)", [](EngineOptions& o) { o.recompute = nn::Recompute::block; }});
  if (s.engine.masters || s.engine.compute == DType::f32)
    changes.push_back({"pure_bf16: true (no fp32 masters)", [](EngineOptions& o) {
                         o.compute = o.optimizer.state_dtype = DType::bf16;
                         o.masters = o.loss_scaling = false;
                       }});
  if (s.engine.optimizer.name.starts_with("adam") && s.config.optim_args.empty())
    changes.push_back({"optim: adafactor (almost no moments; tune the rate anew)", [](EngineOptions& o) { o.optimizer.name = "adafactor"; }});
  std::vector<Suggestion> out;
  for (size_t set = 1; set < size_t{1} << changes.size(); ++set) {
    EngineOptions options = s.engine;
    std::string what;
    for (size_t i = 0; i < changes.size(); ++i)
      if (set >> i & 1) {
        changes[i].make(options);
        what += (what.empty() ? "" : " and ") + changes[i].what;
      }
    const uint64_t peak = dry(s.architecture, *s.objective, options).parts.total() + plan.program_bytes + plan.sample_bytes;
    if (peak < plan.peak_bytes()) out.push_back({what, peak, std::popcount(set)});
  }
  // What fits with the fewest changes comes first; where nothing fits, what comes nearest.
  const auto rank = [&](const Suggestion& x) {
    const bool fits = x.peak_bytes <= plan.available_bytes;
    return std::tuple(!fits, fits ? x.changes : 0, x.peak_bytes);
  };
  std::sort(out.begin(), out.end(), [&](const Suggestion& a, const Suggestion& b) { return rank(a) < rank(b); });
  constexpr size_t kMost = 5;
  if (out.size() > kMost) out.resize(kMost);
  return out;
}

std::string plan_text(const train::RunSetup& s, const Plan& p) {
  std::string out = fmt::format("{} parameters, {} updates, {} tokens\n", models::Decoder(s.architecture).parameters().count(), p.steps, p.tokens);
  const auto line = [&](const char* name, uint64_t bytes) {
    if (bytes) out += fmt::format("  {:<22}{:>12}\n", name, format_bytes(bytes));
  };
  line("weights", p.parts.weights);
  line("fp32 masters", p.parts.masters);
  line("gradients", p.parts.gradients);
  line("optimizer", p.parts.optimizer);
  line("activations, workspace", p.parts.activations);
  line("position tables", p.parts.tables);
  line("generated samples", p.sample_bytes);
  line("program and data", p.program_bytes);
  out += fmt::format("  {:<22}{:>12}   of {} available\n", "peak", format_bytes(p.peak_bytes()), format_bytes(p.available_bytes));
  if (p.seconds > 0) out += fmt::format("about {} at {:.0f} tokens/s\n", format_seconds(p.seconds), p.tokens_per_second);
  if (!p.fits()) {
    out += "does not fit. What would lower the peak:\n";
    for (const Suggestion& change : suggestions(s, p))
      out += fmt::format("  {:>12}  {}{}\n", format_bytes(change.peak_bytes), change.change, change.peak_bytes <= p.available_bytes ? "  (fits)" : "");
  }
  return out;
}

std::string plan_json(const train::RunSetup& s, const Plan& p) {
  Json json;
  json["peak_memory_bytes"] = p.peak_bytes();
  json["parts"] = {{"weights", p.parts.weights}, {"masters", p.parts.masters}, {"gradients", p.parts.gradients},
                   {"optimizer", p.parts.optimizer}, {"activations", p.parts.activations}, {"tables", p.parts.tables},
                   {"samples", p.sample_bytes}, {"program", p.program_bytes}};
  json["available_memory_bytes"] = p.available_bytes;
  json["steps"] = p.steps;
  json["tokens"] = p.tokens;
  json["flops_per_step"] = p.step_flops;
  json["tokens_per_second"] = p.tokens_per_second;
  json["duration_seconds"] = p.seconds;
  json["fits"] = p.fits();
  Json changes = Json::array();
  if (!p.fits())
    for (const Suggestion& change : suggestions(s, p))
      changes.push_back({{"change", change.change}, {"peak_memory_bytes", change.peak_bytes}, {"fits", change.peak_bytes <= p.available_bytes}});
  json["suggestions"] = changes;
  return dump_json(json);
}

}  // namespace attune::plan
