// Every model family against its oracle (fixtures written by tools/reference/family_fixtures.py): logits, gradients and
// ten AdamW steps, packed and split; decoding with a cache; memory to the byte; names as saved.
#include <fmt/format.h>
#include <unistd.h>

#include <map>

#include "models/families/family.h"
#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

const std::vector<std::string> kFamilies{"qwen3", "qwen3_bias", "mistral", "qwen2_sliding", "gemma", "gemma2",
                                         "gemma3", "phi3", "phi3_long", "baichuan2_7b", "baichuan2_13b"};

// A model of a fixture with another of its config files.
std::unique_ptr<models::Decoder> load_with(const fs::path& path, const std::string& config, DType dtype = DType::f32) {
  formats::ModelDirectory directory(path);
  auto model = std::make_unique<models::Decoder>(models::parse_config(read_json(path / config), config));
  model->parameters().allocate_weights(Place::host(), dtype);
  if (dtype != DType::f32) model->parameters().allocate_masters(Place::host());
  models::load_weights(*model, directory);
  return model;
}

std::vector<Sample> samples_of(const Json& sequences) {
  std::vector<Sample> out;
  for (const Json& s : sequences) out.push_back(sample_of(s));
  return out;
}

// Runs rows of a sequence, with a cache or without, and returns their logits.
class Runner {
 public:
  explicit Runner(models::Decoder& model) : model_(model) {
    model.prepare(Place::host(), 64);
    cache = model.make_cache(cache_memory_, 64, DType::f32);
  }
  std::vector<float> logits(const std::vector<int32_t>& ids, int64_t begin, int64_t end, bool cached) {
    ArenaScope scope(arena_);
    const auto rows = static_cast<int32_t>(end - begin);
    std::vector<int32_t> tokens(ids.begin() + begin, ids.begin() + end), positions, cu{0, rows}, keys{0, static_cast<int32_t>(end)};
    for (int64_t p = begin; p < end; ++p) positions.push_back(static_cast<int32_t>(p));
    nn::Stream stream;
    stream.rows = Rows::exactly(rows);
    stream.tokens = Tensor::vector(tokens.data(), DType::i32, rows);
    stream.positions = Tensor::vector(positions.data(), DType::i32, rows);
    stream.cu_seqlens = Tensor::vector(cu.data(), DType::i32, 2);
    stream.max_seqlen = rows;
    stream.past = begin;
    if (cached) stream.cu_keys = Tensor::vector(keys.data(), DType::i32, 2);
    models::ForwardOptions options;
    options.cache = cached ? &cache : nullptr;
    tape_.begin(false);
    const nn::Value h = model_.forward(tape_, stream, DType::f32, options);
    return floats(model_.head().logits(context_, h->value));
  }
  models::KvCache cache;

 private:
  models::Decoder& model_;
  Arena arena_{Place::host(), 64 << 20}, cache_memory_{Place::host(), 8 << 20};
  ops::Context context_{ops::cpu_backend(), arena_};
  nn::StepHooks hooks_;
  nn::Tape tape_{context_, hooks_};
};

struct Result {
  double loss = 0;
  std::map<std::string, std::vector<float>> gradients;
};
Result gradients_of(models::Decoder& model, const Step& step, DType compute, nn::Recompute recompute = nn::Recompute::none) {
  objectives::CausalLm objective;
  train::EngineOptions options;
  options.compute = compute;
  options.capacity = capacity_of(step);
  options.micro_batches = static_cast<int64_t>(step.micro_batches.size());
  options.recompute = recompute;
  auto engine = make_engine(model, objective, options);
  Result run;
  run.loss = engine->step(step, 1, 0.0f).loss;
  for (const auto& p : model.parameters().all()) run.gradients[p->name] = floats(p->gradient);
  return run;
}

class Families : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path path() const { return fixture("families") / GetParam(); }
  Json reference() const { return read_json(path() / "reference.json"); }
};

TEST_P(Families, LogitsEqualTheOracleInBothDialects) {
  formats::SafetensorsFile tensors(path() / "reference.safetensors");
  const Json expected = reference();
  for (const char* config : {"config.json", "config.legacy.json"}) {
    if (!fs::exists(path() / config)) continue;
    SCOPED_TRACE(config);
    auto model = load_with(path(), config);
    Runner runner(*model);
    const auto samples = samples_of(expected["sequences"]);
    for (size_t i = 0; i < samples.size(); ++i)
      EXPECT_LT(relative_error(runner.logits(samples[i].ids, 0, static_cast<int64_t>(samples[i].ids.size()), false),
                               read_tensor(tensors, fmt::format("logits.{}", i))), 1e-4);
  }
}

TEST_P(Families, PackedGradientsEqualTheOracle) {
  auto model = load_model(path());
  const Json expected = reference();
  formats::SafetensorsFile tensors(path() / "reference.safetensors");
  const Step step = step_of({batch_of(samples_of(expected["sequences"]))});
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    const Result run = gradients_of(*model, step, DType::f32, recompute);
    EXPECT_NEAR(run.loss, expected["loss"].get<double>(), 1e-4);
    for (const auto& [name, gradient] : run.gradients)
      EXPECT_LT(relative_error(gradient, read_tensor(tensors, "grad." + name)), 1e-4) << name;
  }
}

TEST_P(Families, WhatIsMadeAgainHasTheSameBits) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = load_model(path(), dtype);
    const Step step = step_of({batch_of(samples_of(reference()["sequences"]))});
    const Result all = gradients_of(*model, step, dtype);
    for (nn::Recompute recompute : {nn::Recompute::light, nn::Recompute::block}) {
      const Result again = gradients_of(*model, step, dtype, recompute);
      EXPECT_EQ(again.loss, all.loss);
      for (const auto& [name, gradient] : again.gradients) EXPECT_EQ(gradient, all.gradients.at(name)) << name;
    }
  }
}

TEST_P(Families, SplittingAStepChangesOnlyRounding) {
  auto model = load_model(path());
  const auto samples = samples_of(reference()["sequences"]);
  const Result packed = gradients_of(*model, step_of({batch_of(samples)}), DType::f32);
  const Result split = gradients_of(*model, step_of({batch_of({samples[2]}, 2), batch_of({samples[0]}), batch_of({samples[1]}, 1)}), DType::f32);
  EXPECT_NEAR(packed.loss, split.loss, 1e-5);
  for (const auto& [name, gradient] : split.gradients) EXPECT_LT(relative_error(gradient, packed.gradients.at(name)), 1e-4) << name;
}

TEST_P(Families, Bf16GradientsPointTheSameWay) {
  auto model = load_model(path(), DType::bf16);
  const Json expected = reference();
  formats::SafetensorsFile tensors(path() / "reference.safetensors");
  const Result run = gradients_of(*model, step_of({batch_of(samples_of(expected["sequences"]))}), DType::bf16);
  EXPECT_NEAR(run.loss, expected["loss"].get<double>(), 5e-2);
  for (const auto& [name, gradient] : run.gradients) 
    // (the gradient of a key bias is a sum that nearly cancels)
    EXPECT_GT(cosine(gradient, read_tensor(tensors, "grad." + name)), name.ends_with("k_proj.bias") ? 0.99 : 0.997) << name;
}

TEST_P(Families, TenStepsFollowTheOracle) {
  const Json run = reference()["adamw"];
  auto model = load_model(path());
  std::vector<Step> steps;
  train::EngineOptions options;
  for (const Json& micro_batches : run["batches"]) {
    std::vector<MicroBatch> batches;
    for (const Json& micro : micro_batches) batches.push_back(batch_of(samples_of(micro)));
    options.micro_batches = static_cast<int64_t>(batches.size());
    steps.push_back(step_of(std::move(batches)));
    const BatchCapacity c = capacity_of(steps.back());
    options.capacity = {std::max(options.capacity.tokens, c.tokens), std::max(options.capacity.sequences, c.sequences),
                        std::max(options.capacity.label_rows, c.label_rows), std::max(options.capacity.max_seqlen, c.max_seqlen)};
  }
  options.max_grad_norm = run["hyper"]["clip"].get<float>();
  options.optimizer.weight_decay = run["hyper"]["weight_decay"].get<float>();
  objectives::CausalLm objective;
  auto engine = make_engine(*model, objective, options);
  for (int64_t s = 0; s < run["hyper"]["steps"].get<int64_t>(); ++s) {
    const auto i = static_cast<size_t>(s);
    const auto result = engine->step(steps[i % steps.size()], s + 1, run["hyper"]["lr"].get<float>());
    EXPECT_NEAR(result.loss, run["loss"][i].get<double>(), 1e-4) << "step " << s;
    EXPECT_NEAR(result.grad_norm, run["grad_norm"][i].get<double>(), 1e-3 * run["grad_norm"][i].get<double>()) << "step " << s;
  }
}

// What the model says about a token is a function of what came before, however it is fed.
void expect_decoding_equals_full(models::Decoder& model, const std::vector<int32_t>& ids) {
  Runner runner(model);
  const auto n = static_cast<int64_t>(ids.size()), vocab = model.config().vocab_size;
  int64_t begin = 0;
  for (int64_t end = 4; end <= n; end += end == 9 ? 3 : 1) {
    if (!model.cache_keeps(begin, end)) begin = 0;
    const auto last_row = [&](const std::vector<float>& all) { return std::vector<float>(all.end() - vocab, all.end()); };
    const auto decoded = last_row(runner.logits(ids, begin, end, true)), full = last_row(runner.logits(ids, 0, end, false));
    EXPECT_LT(relative_error(decoded, full), 1e-4) << end << " tokens";
    begin = end;
  }
}

TEST_P(Families, DecodingWithACacheEqualsTheFullForward) {
  auto model = load_model(path());
  expect_decoding_equals_full(*model, samples_of(reference()["sequences"])[2].ids);
}

TEST_P(Families, ADryRunMeasuresTheRealStepToTheByte) {
  const auto samples = samples_of(reference()["sequences"]);
  objectives::CausalLm objective;
  for (DType dtype : {DType::f32, DType::bf16})
    for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block})
      for (bool in_backward : {false, true}) {
        auto model = load_model(path(), dtype);
        const Step step = step_of({batch_of(samples)});
        train::EngineOptions options;
        options.compute = dtype;
        options.capacity = capacity_of(step);
        options.recompute = recompute;
        options.optimizer_in_backward = in_backward;
        if (in_backward) options.max_grad_norm = 0;
        options.attention_dropout = options.hidden_dropout = 0.1f;
        auto engine = make_engine(*model, objective, options);
        engine->step(step, 1, 1e-3f);
        EXPECT_EQ(engine->arena().high_water(), engine->arena().capacity());
        EXPECT_EQ(engine->arena().used(), 0u);
      }
}

TEST_P(Families, SavedAgainNamesAndBytesAreTheSame) {
  const fs::path out = fs::temp_directory_path() / fmt::format("attune_families_{}_{}", ::getpid(), GetParam());
  fs::create_directories(out);
  auto model = load_model(path());
  formats::save_model(out, models::tensor_sources(*model, DType::f32), {});
  EXPECT_EQ(read_file(out / "model.safetensors"), read_file(path() / "model.safetensors"));
  fs::remove_all(out);
}

TEST_P(Families, InitialisedWeightsGiveAnEvenGuess) {
  models::Decoder model(models::parse_config(read_json(path() / "config.json"), "config.json"));
  model.parameters().allocate_weights(Place::host(), DType::f32);
  models::initialise_weights(model, 5);
  for (const auto& p : model.parameters().all())
    if (p->name.ends_with("norm.weight")) {
      for (float x : floats(p->weight)) EXPECT_EQ(x, GetParam().starts_with("gemma") ? 0.0f : 1.0f) << p->name;
    }
  const auto samples = samples_of(reference()["sequences"]);
  const Result run = gradients_of(model, step_of({batch_of(samples)}), DType::f32);
  EXPECT_NEAR(run.loss, std::log(48.0), GetParam().starts_with("baichuan") ? 1.0 : 0.1);
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(kFamilies), [](const auto& info) { return info.param; });

// Rotary scalings ---------------------------------------------------------------------------------------------------------

class Rotary : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path path() const { return fixture("families/rope"); }
};

TEST_P(Rotary, LogitsAndGradientsEqualTransformersBelowAndBeyondTheOriginalLength) {
  formats::SafetensorsFile tensors(path() / ("reference." + GetParam() + ".safetensors"));
  const auto samples = samples_of(read_json(path() / "reference.json")["sequences"]);
  for (const char* dialect : {".json", ".legacy.json"}) {
    SCOPED_TRACE(dialect);
    auto model = load_with(path(), "config." + GetParam() + dialect);
    Runner runner(*model);
    for (size_t i = 0; i < samples.size(); ++i)
      EXPECT_LT(relative_error(runner.logits(samples[i].ids, 0, static_cast<int64_t>(samples[i].ids.size()), false),
                               read_tensor(tensors, fmt::format("logits.{}", i))), 1e-4) << i;
    // Packed into one stream, each sequence keeps the frequencies of its own length.
    const Result run = gradients_of(*model, step_of({batch_of(samples)}), DType::f32, nn::Recompute::block);
    EXPECT_LT(relative_error(run.gradients.at("model.layers.0.self_attn.q_proj.weight"), read_tensor(tensors, "grad.q")), 1e-4);
  }
}

TEST_P(Rotary, DecodingWithACacheEqualsTheFullForward) {
  auto model = load_with(path(), "config." + GetParam() + ".json");
  expect_decoding_equals_full(*model, samples_of(read_json(path() / "reference.json")["sequences"])[0].ids);
}

INSTANTIATE_TEST_SUITE_P(Scalings, Rotary, ::testing::Values("default", "linear", "dynamic", "yarn", "yarn_mscale", "yarn_factor", "llama3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace attune
