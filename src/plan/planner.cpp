#include "plan/planner.h"

#include <algorithm>

#include "ops/backend.h"
#include "ops/blas/onednn.h"
#include "models/families/family.h"
#include "train/objective_options.h"
#include "train/reference.h"
#include "train/samples.h"
#include "util/error.h"

namespace attune::plan {
namespace {

using train::Config;
using train::EngineOptions;
using train::RunSetup;

// Updates that are gone through dry to know the work of a mean one; shorter runs are gone through as a whole.
constexpr int64_t kSampledUpdates = 8, kSampledMicroBatches = 32, kSampledEvaluations = 4;
// What writing a checkpoint is taken to reach: a plan writes nothing, so it does not measure it.
constexpr double kDiskBytes = 5e8;

// An engine over memory that is not there.
struct DryEngine {
  models::Decoder model;
  std::unique_ptr<train::Engine> engine;
  DryEngine(const RunSetup& s, const EngineOptions& options) : model(s.architecture) {
    train::allocate_model(model, options, Place::dry());
    engine = std::make_unique<train::Engine>(model, *s.objective, options, Place::dry(), 0);
  }
};

// What an update asks of the machine beside the optimizer's own sweep, which is measured as a whole.
struct UpdateWork {
  ops::Ledger ledger;
  ops::Work total;
  double tokens = 0, updates = 0;
};

// The sweep over all parameters alone: products inside of optimizers are part of it.
ops::Ledger sweep_ledger(DryEngine& dry) {
  Arena arena(Place::dry(), uint64_t{1} << 42), gradients(Place::dry(), uint64_t{1} << 42);
  ops::Context context(*dry.engine->options().backend, arena);
  for (const auto& p : dry.model.parameters().all()) {
    if (!p->is_stepped()) continue;
    const Tensor gradient = p->gradient;
    if (!gradient.defined()) p->gradient = gradients.matrix(p->weight.rows, p->weight.cols, p->gradient_dtype);
    dry.engine->optimizer().step(context, *p, 1, 0, 1);
    p->gradient = gradient;
  }
  return *context.ledger();
}

// What the math library takes that no arena knows of: code that it compiles for bf16 and its tables, and what the largest
// fp32 product packs inside.
uint64_t library_bytes(const ops::Ledger& ledger) {
  constexpr uint64_t kCode = 24'000'000;
  uint64_t packed = 0;
  for (const auto& [job, e] : ledger.entries()) {
    if (!is_product(job) || job.dtypes[0] != DType::f32 || job.dtypes[1] != DType::f32) continue;
    const bool tn = job.op == "gemm_tn";
    packed = std::max(packed, ops::onednn::sgemm_hidden_bytes(tn ? job.shape[1] : job.shape[0], tn ? static_cast<int64_t>(e.rows / e.calls) : job.shape[1]));
  }
  return kCode + packed;
}

int64_t tokens_of(const Step& step) {
  int64_t n = 0;
  for (const MicroBatch& b : step.micro_batches) n += b.token_count();
  return n;
}

Step worst_step(const Config& c) {
  const std::vector<int32_t> ids(static_cast<size_t>(c.cutoff_len));
  const std::vector<float> weights(ids.size(), 1.0f);
  Step step;
  step.micro_batches.resize(1);
  const int64_t of_group = train::sequences_of_group(c);
  for (int64_t i = 0; i < c.per_device_train_batch_size * of_group; ++i) step.micro_batches[0].add_sequence(i, ids, weights, static_cast<int32_t>(i / of_group));
  step.total_weight = step.micro_batches[0].total_weight();
  return step;
}

// Steps of the run as they will come, spread over its first epoch.
std::vector<Step> sampled_steps(const data::Batcher& batches, int64_t total, bool every) {
  const int64_t within = std::min(total, batches.steps_in_epoch(0));
  const int64_t few = std::clamp<int64_t>(kSampledMicroBatches / batches.options().micro_batches, 1, kSampledUpdates);
  const int64_t count = std::min(within, every ? kSampledUpdates : few);
  std::vector<Step> steps(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) batches.make_step(0, count == 1 ? 0 : i * (within - 1) / (count - 1), steps[static_cast<size_t>(i)]);
  return steps;
}

UpdateWork work_of(const RunSetup& s, const Config& c, DryEngine& dry) {
  UpdateWork work;
  std::vector<Step> steps;
  double micro_batches = 1;  // that one shown here stands for
  if (!s.train_set) {
    steps.push_back(worst_step(c));
    micro_batches = static_cast<double>(c.gradient_accumulation_steps);
  } else if (c.per_device_train_batch_size == s.config.per_device_train_batch_size && c.gradient_accumulation_steps == s.config.gradient_accumulation_steps) {
    steps = sampled_steps(*s.train_batches, s.total_steps, s.total_steps <= kSampledUpdates);
  } else {
    data::BatchingOptions batching = s.train_batches->options();
    batching.micro_batch_size = c.per_device_train_batch_size;
    batching.micro_batches = c.gradient_accumulation_steps;
    steps = sampled_steps(data::Batcher(*s.train_set, batching), s.total_steps, false);
  }
  const ops::Ledger sweep = sweep_ledger(dry);
  for (const Step& step : steps) {
    if (step.total_weight <= 0) continue;  // the run will say so
    dry.engine->step(step, 1, 0);
    const ops::Ledger& ledger = *dry.engine->context().ledger();
    work.ledger.add(ledger, micro_batches);
    work.ledger.add(sweep, -micro_batches);
    work.tokens += static_cast<double>(tokens_of(step)) * micro_batches;
    work.updates += 1;
  }
  if (work.updates == 0) return work;
  const ops::Work products = work.ledger.total(), update = sweep.total();
  work.total = {products.flops / work.updates + update.flops, products.bytes / work.updates + update.bytes};
  return work;
}

// Evaluations of a run, as the loop decides them.
double evaluations(const RunSetup& s) {
  const Config& c = s.config;
  if (!s.eval_batches || c.eval_strategy == "no") return 0;
  const bool by_steps = c.eval_strategy == "steps" || (c.eval_strategy == "auto" && c.eval_steps > 0);
  const int64_t every = c.eval_steps > 0 ? c.eval_steps : c.logging_steps;
  const auto count = by_steps ? (s.total_steps + every - 1) / every : static_cast<int64_t>(s.epoch_ends.size());
  return static_cast<double>(count + (c.eval_on_start ? 1 : 0));
}

double evaluation_seconds(const RunSetup& s, DryEngine& dry, Calibration& calibration, const EngineOptions& options) {
  const double count = evaluations(s);
  if (count == 0) return 0;
  ops::Ledger ledger;
  double tokens = 0;
  std::vector<objectives::Outcome> outcomes;
  for (const Step& step : sampled_steps(*s.eval_batches, kSampledEvaluations, false)) {
    dry.engine->context().reset_work();
    dry.engine->evaluate(step, outcomes);
    ledger.add(*dry.engine->context().ledger(), 1);
    tokens += static_cast<double>(tokens_of(step));
  }
  calibration.measure(ledger, options, dry.model);
  return count * calibration.seconds(ledger) * static_cast<double>(s.eval_set->total_tokens()) / tokens;
}

// The walk of train/reference.h over the data that the run will see.
double reference_seconds(const RunSetup& s, const Config& c, DryEngine& dry, Calibration& calibration, const EngineOptions& options) {
  if (!s.train_set || !train::needs_reference(c)) return 0;
  ops::Ledger ledger;
  double tokens = 0, all = 0;
  std::vector<objectives::SequenceLogp> unused;
  for (const Step& step : sampled_steps(*s.train_batches, s.total_steps, false))
    for (const auto* batches : {&step.micro_batches, &step.probes})
      for (const MicroBatch& batch : *batches) {
        dry.engine->context().reset_work();
        dry.engine->measure_sequences(batch, true, unused);
        ledger.add(*dry.engine->context().ledger(), 1);
        tokens += static_cast<double>(batch.token_count());
      }
  calibration.measure(ledger, options, dry.model);
  const double epoch = static_cast<double>(s.train_batches->steps_in_epoch(0));
  all = static_cast<double>(s.train_set->total_tokens()) * std::min(1.0, static_cast<double>(s.total_steps) / epoch);
  if (s.eval_set) all += static_cast<double>(s.eval_set->total_tokens());
  return calibration.seconds(ledger) * all / tokens;
}

// A reference model of its own, at the run's largest micro-batch.
uint64_t reference_bytes(const RunSetup& s, const Config& c) {
  if (c.ref_model.empty() || !train::needs_reference(c)) return 0;
  const formats::ModelDirectory directory(c.ref_model);
  models::Decoder model(models::parse_config(directory.config(), (directory.path() / "config.json").string()));
  for (const auto& p : model.parameters().all()) p->trainable = false;
  const EngineOptions options = train::reference_options(s.engine);
  model.parameters().allocate_weights(Place::dry(), options.compute);
  train::Engine engine(model, *s.objective, options, Place::dry(), 0);
  engine.dry_run();
  return engine.memory().total();
}

double checkpoint_seconds(const RunSetup& s, const train::MemoryParts& parts) {
  const Config& c = s.config;
  const int64_t count = c.save_strategy == "steps" ? s.total_steps / c.save_steps : c.save_strategy == "epoch" ? static_cast<int64_t>(s.epoch_ends.size()) : 0;
  const uint64_t state = c.save_only_model ? 0 : parts.masters + parts.optimizer;
  return static_cast<double>(count) * static_cast<double>(parts.weights + state) / kDiskBytes;
}

uint64_t sample_bytes(const RunSetup& s, const EngineOptions& options) {
  if (s.config.num_generation_samples == 0 || !s.train_set) return 0;
  models::Decoder model(s.architecture);
  train::allocate_model(model, options, Place::dry());
  model.prepare(Place::dry(), options.capacity.max_seqlen);
  return train::generation_sample_bytes(s, model);
}

void plan_time(const RunSetup& s, const Config& c, const EngineOptions& options, Calibration& calibration, Plan& plan) {
  DryEngine dry(s, options);
  const UpdateWork work = work_of(s, c, dry);
  if (work.updates == 0) return;
  plan.step = work.total;
  plan.tokens_per_update = work.tokens / work.updates;
  calibration.measure(work.ledger, options, dry.model);
  const double per_token = calibration.seconds(work.ledger) / work.tokens, sweep = calibration.update_seconds(options, dry.model);
  if (s.train_set) {
    const double epochs = static_cast<double>(s.total_steps) / static_cast<double>(s.train_batches->steps_in_epoch(0));
    const bool all_seen = static_cast<double>(s.total_steps) <= work.updates;
    plan.tokens = all_seen ? static_cast<int64_t>(work.tokens) : static_cast<int64_t>(epochs * static_cast<double>(s.train_set->total_tokens()));
    plan.tokens_per_update = static_cast<double>(plan.tokens) / static_cast<double>(std::max<int64_t>(1, s.total_steps));
    plan.evaluation_seconds = evaluation_seconds(s, dry, calibration, options);
  } else {
    plan.tokens = static_cast<int64_t>(plan.tokens_per_update) * s.total_steps;
  }
  plan.update_seconds = per_token * plan.tokens_per_update + sweep;
  plan.checkpoint_seconds = checkpoint_seconds(s, plan.parts);
  plan.extra_seconds = calibration.touch_seconds(plan.parts.activations + plan.parts.gradients + plan.parts.optimizer);
  if (options.clipping == train::Clipping::previous_step && options.max_grad_norm > 0) plan.extra_seconds += plan.update_seconds - sweep;
  if (const int64_t interval = options.optimizer.refresh_interval())
    plan.extra_seconds += calibration.refresh_seconds(options, dry.model) * static_cast<double>((s.total_steps + interval - 1) / interval);
  plan.extra_seconds += reference_seconds(s, c, dry, calibration, options);
  const double updates = plan.update_seconds * static_cast<double>(s.total_steps);
  plan.seconds = s.total_steps > 0 ? updates + plan.extra_seconds + plan.evaluation_seconds + plan.checkpoint_seconds : 0;
  plan.tokens_per_second = plan.seconds > 0 ? static_cast<double>(plan.tokens) / plan.seconds : plan.tokens_per_update / plan.update_seconds;
}

}  // namespace

uint64_t activation_bytes(const RunSetup& s) {
  DryEngine dry(s, s.engine);
  dry.engine->dry_run();
  return dry.engine->memory().activations;
}

uint64_t calibration_memory(const Plan& plan) { return std::min(plan.parts.total() / 2, plan.available_bytes / 8); }

Plan make_plan(const RunSetup& s, Calibration* calibration) { return make_plan(s, s.config, calibration); }

Plan make_plan(const RunSetup& s, const Config& config, Calibration* calibration) {
  const EngineOptions options = train::engine_options(s, config);
  Plan plan;
  {
    DryEngine dry(s, options);
    dry.engine->dry_run();
    plan.parts = dry.engine->memory();
    plan.arena = dry.engine->arena().parts();
    plan.step = dry.engine->step_work();
    if (options.backend->device().is_host()) plan.library_bytes = library_bytes(*dry.engine->context().ledger());
    plan.parameters = dry.model.parameters().count();
    plan.trainable = dry.model.parameters().trainable_count();
  }
  plan.layers = s.architecture.num_hidden_layers;
  plan.from_data = s.train_set != nullptr;
  plan.updates = s.total_steps;
  plan.sample_bytes = sample_bytes(s, options);
  const uint64_t reference = reference_bytes(s, config), run = plan.parts.total() + plan.sample_bytes;
  plan.reference_bytes = reference > run ? reference - run : 0;
  Device& device = options.backend->device();
  const uint64_t held = device.held_memory();  // program, tokenizer, data; on a GPU the driver's own, and what others hold there
  plan.program_bytes = held + (s.stream && device.is_host() ? s.stream->memory_bytes(s) : 0);
  plan.available_bytes = device.free_memory() + held;
  if (!calibration) return plan;
  Config timed = config;
  timed.cutoff_len = s.config.cutoff_len;
  plan_time(s, timed, timed.cutoff_len == config.cutoff_len ? options : train::engine_options(s, timed), *calibration, plan);
  return plan;
}

}  // namespace attune::plan
