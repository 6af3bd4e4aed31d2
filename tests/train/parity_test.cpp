// The engine against transformers: logits, loss, per-tensor gradients and fifty AdamW steps (fixtures written by
// tools/reference/model_fixtures.py).
#include <fmt/format.h>

#include "nn/layers.h"
#include "optim/schedule.h"
#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

class Parity : public ::testing::TestWithParam<const char*> {
 protected:
  fs::path path() const { return fixture("models") / GetParam(); }
  Json reference() const { return read_json(path() / "reference.json"); }
  std::vector<Sample> samples() const {
    std::vector<Sample> out;
    const Json json = reference();
    for (const Json& s : json["sequences"]) out.push_back(sample_of(s));
    return out;
  }
};

// A step with learning rate 0 leaves the gradients to be looked at.
std::unique_ptr<train::Engine> run_once(models::Decoder& model, const objectives::Objective& objective, const Step& step,
                                        DType compute, train::StepResult& result,
                                        nn::Recompute recompute = nn::Recompute::none) {
  train::EngineOptions options;
  options.compute = compute;
  options.capacity = capacity_of(step);
  options.micro_batches = static_cast<int64_t>(step.micro_batches.size());
  options.recompute = recompute;
  auto engine = make_engine(model, objective, options);
  result = engine->step(step, 1, 0.0f);
  return engine;
}

TEST_P(Parity, LogitsEqualTransformers) {
  auto model = load_model(path());
  formats::SafetensorsFile tensors(path() / "reference.safetensors");
  model->prepare(Place::host(), 64);
  const auto all = samples();
  for (size_t i = 0; i < all.size(); ++i) {
    const MicroBatch batch = batch_of({all[i]});
    const auto n = batch.token_count();
    Arena arena(Place::host(), 64 << 20);
    ops::Context context(ops::cpu_backend(), arena);
    nn::StepHooks hooks;
    nn::Tape tape(context, hooks);
    tape.begin(false);
    objectives::BatchView view;
    view.bind(batch, {n, 1, n, n}, 1.0);
    models::ForwardOptions options;
    nn::Value hidden = model->forward(tape, view.stream(), DType::f32, options);
    const Tensor logits = model->head().logits(context, hidden->value);
    EXPECT_LT(relative_error(floats(logits), read_tensor(tensors, fmt::format("logits.{}", i))), 1e-4);
  }
}

TEST_P(Parity, GradientsEqualTransformersInFp32) {
  auto model = load_model(path());
  objectives::CausalLm objective;
  const Step step = step_of({batch_of(samples())});
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    train::StepResult result;
    auto engine = run_once(*model, objective, step, DType::f32, result, recompute);
    EXPECT_NEAR(result.loss, reference()["loss"].get<double>(), 1e-4);
    formats::SafetensorsFile tensors(path() / "reference.safetensors");
    for (const auto& p : model->parameters().all())
      EXPECT_LT(relative_error(floats(p->gradient), read_tensor(tensors, "grad." + p->name)), 1e-4) << p->name;
  }
}

TEST_P(Parity, GradientsPointTheSameWayInBf16) {
  auto model = load_model(path(), DType::bf16);
  objectives::CausalLm objective;
  train::StepResult result;
  auto engine = run_once(*model, objective, step_of({batch_of(samples())}), DType::bf16, result);
  EXPECT_NEAR(result.loss, reference()["loss"].get<double>(), 5e-2);
  formats::SafetensorsFile tensors(path() / "reference.safetensors");
  for (const auto& p : model->parameters().all())
    EXPECT_GT(cosine(floats(p->gradient), read_tensor(tensors, "grad." + p->name)), 0.999) << p->name;
}

INSTANTIATE_TEST_SUITE_P(Families, Parity, ::testing::Values("llama2_tiny", "llama3_tiny", "qwen2_tiny", "qwen2_sharded"));

class AdamWRun : public ::testing::TestWithParam<const char*> {};

TEST_P(AdamWRun, FiftyStepsFollowTheReference) {
  const fs::path path = fixture("models") / GetParam();
  const Json run = read_json(path / "adamw_run.json");
  const Json& hyper = run["hyper"];
  auto model = load_model(path);
  std::vector<Step> steps;
  for (const Json& micro_batches : run["batches"]) {
    std::vector<MicroBatch> batches;
    for (const Json& micro : micro_batches) {
      std::vector<Sample> samples;
      for (const Json& s : micro) samples.push_back(sample_of(s));
      batches.push_back(batch_of(samples));
    }
    steps.push_back(step_of(std::move(batches)));
  }
  train::EngineOptions options;
  for (const Step& s : steps) {
    const BatchCapacity c = capacity_of(s);
    options.capacity.tokens = std::max(options.capacity.tokens, c.tokens);
    options.capacity.sequences = std::max(options.capacity.sequences, c.sequences);
    options.capacity.label_rows = std::max(options.capacity.label_rows, c.label_rows);
    options.capacity.max_seqlen = std::max(options.capacity.max_seqlen, c.max_seqlen);
    options.micro_batches = std::max(options.micro_batches, static_cast<int64_t>(s.micro_batches.size()));
  }
  options.max_grad_norm = hyper["clip"].get<float>();
  options.optimizer.weight_decay = hyper["weight_decay"].get<float>();
  objectives::CausalLm objective;
  auto engine = make_engine(*model, objective, options);
  const auto total = hyper["steps"].get<int64_t>();
  const optim::Schedule schedule({"cosine", hyper["lr"].get<float>(), hyper["warmup_steps"].get<int64_t>(), total, {}, {}});
  for (int64_t s = 0; s < total; ++s) {
    const auto i = static_cast<size_t>(s);
    const auto lr = static_cast<float>(schedule.learning_rate(s));
    EXPECT_NEAR(lr, run["lr"][i].get<float>(), 1e-9);
    const auto result = engine->step(steps[i % steps.size()], s + 1, lr);
    EXPECT_NEAR(result.loss, run["loss"][i].get<double>(), 1e-4) << "step " << s;
    EXPECT_NEAR(result.grad_norm, run["grad_norm"][i].get<double>(), 1e-3 * run["grad_norm"][i].get<double>()) << "step " << s;
  }
  formats::SafetensorsFile final_weights(path / "adamw_run.safetensors");
  for (const auto& info : final_weights.tensors())
    EXPECT_LT(relative_error(floats(model->parameters().find(info.name)->weight), read_tensor(final_weights, info.name)), 1e-3)
        << info.name;
}

INSTANTIATE_TEST_SUITE_P(Families, AdamWRun, ::testing::Values("llama3_tiny", "qwen2_tiny"));

}  // namespace
}  // namespace attune
