// finetuning_type: lora against PEFT (fixtures written by tools/reference/adapter_fixtures.py): logits, gradients, fifty
// steps, files; what is trained, and what is refused.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <set>

#include "models/families/family.h"
#include "models/merge.h"
#include "nn/layers.h"
#include "support/errors.h"
#include "support/fixtures.h"
#include "support/steps.h"
#include "support/workspace.h"
#include "util/rng.h"

namespace attune {
namespace {

using namespace test;

struct Adapted {
  fs::path path, base;
  Json reference;
  train::EngineOptions options;
  std::unique_ptr<formats::ModelDirectory> directory;
  std::unique_ptr<models::Decoder> model;
  std::vector<Sample> samples;
};

std::unique_ptr<models::Decoder> declare(const formats::ModelDirectory& directory, const tuning::LoraOptions& lora) {
  auto config = models::parse_config(directory.config(), "config.json");
  if (tuning::unties(lora, config)) models::untie(config);
  return std::make_unique<models::Decoder>(config);
}

// The base of a fixture with its adapter continued, as a run would begin.
Adapted begin(const std::string& name, DType compute = DType::f32, nn::Recompute recompute = nn::Recompute::light) {
  Adapted a;
  a.path = fixture("adapters/" + name);
  a.reference = read_json(a.path / "reference.json");
  a.base = fixture(a.reference["base"].get<std::string>());
  a.options.compute = compute;
  a.options.masters = compute != DType::f32;
  a.options.recompute = recompute;
  a.options.tuning.type = "lora";
  tuning::LoraOptions& lora = a.options.tuning.lora;
  lora.continued = a.path;
  lora.config = formats::read_lora_config(a.path);
  lora.plus_ratio = a.reference["loraplus_lr_ratio"].get<double>();
  lora.plus_embedding = a.reference.value("loraplus_lr_embedding", 0.0) / a.reference["hyper"]["lr"].get<double>();
  a.directory = std::make_unique<formats::ModelDirectory>(a.base);
  a.model = declare(*a.directory, lora);
  train::allocate_model(*a.model, a.options, Place::host());
  models::load_weights(*a.model, *a.directory);
  tuning::begin_lora(lora, *a.model, *a.directory);
  for (const Json& s : a.reference["sequences"]) a.samples.push_back(sample_of(s));
  return a;
}

std::vector<float> logits_of(models::Decoder& model, const std::vector<int32_t>& ids, DType compute = DType::f32) {
  model.prepare(Place::host(), 64);
  Sample sample{ids, std::vector<float>(ids.size(), 1.0f)};
  const MicroBatch batch = batch_of({sample});
  const auto n = batch.token_count();
  Arena arena(Place::host(), 64 << 20);
  ops::Context context(ops::cpu_backend(), arena);
  nn::StepHooks hooks;
  nn::Tape tape(context, hooks);
  tape.begin(false);
  objectives::BatchView view;
  view.bind(batch, {n, 1, n, n}, 1.0);
  models::ForwardOptions options;
  nn::Value hidden = model.forward(tape, view.stream(), compute, options);
  return floats(model.head().logits(context, hidden->value));
}

// PEFT has A of an embedding the other way round.
std::vector<float> as_saved(const nn::Parameter& p, const std::vector<float>& values) {
  return p.name.ends_with(".lora_embedding_A") ? models::turned(values, p.shape[0]) : values;
}

class Adapter : public ::testing::TestWithParam<const char*> {};

TEST_P(Adapter, LogitsEqualPeft) {
  Adapted a = begin(GetParam());
  formats::SafetensorsFile tensors(a.path / "reference.safetensors");
  for (size_t i = 0; i < a.samples.size(); ++i)
    EXPECT_LT(relative_error(logits_of(*a.model, a.samples[i].ids), read_tensor(tensors, fmt::format("logits.{}", i))), 1e-4);
}

TEST_P(Adapter, GradientsEqualPeftHoweverMuchIsRecomputed) {
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    Adapted a = begin(GetParam(), DType::f32, recompute);
    const Step step = step_of({batch_of(a.samples)});
    a.options.capacity = capacity_of(step);
    objectives::CausalLm objective;
    auto engine = make_engine(*a.model, objective, a.options);
    EXPECT_NEAR(engine->step(step, 1, 0.0f).loss, a.reference["loss"][0].get<double>(), 1e-4);
    formats::SafetensorsFile tensors(a.path / "reference.safetensors");
    size_t compared = 0;
    for (const auto& p : a.model->parameters().all()) {
      if (p->adapter_name.empty()) {
        EXPECT_FALSE(p->gradient.defined()) << p->name;
        continue;
      }
      ++compared;
      EXPECT_LT(relative_error(as_saved(*p, floats(p->gradient)), read_tensor(tensors, "grad." + p->adapter_name)), 1e-4) << p->adapter_name;
    }
    size_t expected = 0;
    for (const auto& t : tensors.tensors()) expected += t.name.starts_with("grad.");
    EXPECT_EQ(compared, expected);
  }
}

TEST_P(Adapter, FiftyStepsFollowPeftAndTheBaseStays) {
  Adapted a = begin(GetParam());
  const Step step = step_of({batch_of(a.samples)});
  const Json& hyper = a.reference["hyper"];
  a.options.capacity = capacity_of(step);
  a.options.max_grad_norm = hyper["clip"].get<float>();
  a.options.optimizer.weight_decay = hyper["weight_decay"].get<float>();
  objectives::CausalLm objective;
  auto engine = make_engine(*a.model, objective, a.options);
  const uint64_t before = tuning::frozen_hash(*a.model);
  for (size_t s = 0; s < a.reference["loss"].size(); ++s) {
    const auto result = engine->step(step, static_cast<int64_t>(s) + 1, hyper["lr"].get<float>());
    EXPECT_NEAR(result.loss, a.reference["loss"][s].get<double>(), 1e-4) << "step " << s;
    EXPECT_NEAR(result.grad_norm, a.reference["grad_norm"][s].get<double>(), 2e-3 * a.reference["grad_norm"][s].get<double>()) << "step " << s;
  }
  EXPECT_EQ(tuning::frozen_hash(*a.model), before);
}

TEST_P(Adapter, GradientsPointTheSameWayInBf16) {
  Adapted a = begin(GetParam(), DType::bf16);
  const Step step = step_of({batch_of(a.samples)});
  a.options.capacity = capacity_of(step);
  objectives::CausalLm objective;
  auto engine = make_engine(*a.model, objective, a.options);
  engine->step(step, 1, 0.0f);
  formats::SafetensorsFile tensors(a.path / "reference.safetensors");
  for (const auto& p : a.model->parameters().all())
    if (!p->adapter_name.empty()) {
      EXPECT_GT(cosine(as_saved(*p, floats(p->gradient)), read_tensor(tensors, "grad." + p->adapter_name)), 0.99) << p->adapter_name;
    }
}

TEST_P(Adapter, FilesComeBackWithTheSameBits) {
  Adapted a = begin(GetParam());
  Workspace w;
  models::save_adapter(w.path(), *a.model, tuning::adapter_config(a.options.tuning.lora, *a.model), DType::f32);
  formats::SafetensorsFile theirs(a.path / "adapter_model.safetensors"), ours(w / "adapter_model.safetensors");
  size_t compared = 0;
  for (const auto& t : theirs.tensors()) {
    if (t.name.ends_with(".base_layer.weight")) continue;  // the base's own, which PEFT writes beside adapted tables
    ++compared;
    const auto* found = ours.find(t.name);
    ASSERT_NE(found, nullptr) << t.name;
    EXPECT_EQ(found->shape, t.shape);
    EXPECT_EQ(found->dtype, t.dtype);
    const auto x = read_tensor(theirs, t.name), y = read_tensor(ours, t.name);
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(float)), 0) << t.name;
  }
  EXPECT_EQ(ours.tensors().size(), compared);
  // Every key we write says what PEFT's file says.
  const Json they = read_json(a.path / "adapter_config.json"), we = read_json(w / "adapter_config.json");
  for (const auto& [key, value] : we.items()) {
    ASSERT_TRUE(they.contains(key)) << key;
    EXPECT_EQ(value, they[key]) << key;
  }
}

TEST_P(Adapter, MergedWeightsAnswerLikeTheAdapter) {
  Adapted a = begin(GetParam());
  auto merged = declare(*a.directory, a.options.tuning.lora);
  merged->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(*merged, *a.directory);
  models::merge_into(*merged, *a.directory, {a.path});
  for (const Sample& s : a.samples) EXPECT_LT(relative_error(logits_of(*merged, s.ids), logits_of(*a.model, s.ids)), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Peft, Adapter, ::testing::Values("llama2_lora", "qwen2_rslora", "qwen2_head", "phi3_plus", "llama2_dora", "qwen2_dora",
                                                           "llama2_tables", "qwen2_tables", "gemma_tables", "gemma2_lora", "gemma3_lora",
                                                           "mistral_lora", "qwen3_lora"));

tuning::LoraOptions lora_on(std::vector<std::string> targets) {
  tuning::LoraOptions o;
  o.config.r = 4, o.config.alpha = 8;
  o.config.target_modules = std::move(targets);
  return o;
}

std::unique_ptr<models::Decoder> applied(const tuning::LoraOptions& lora, const std::string& base = "models/qwen2_tiny") {
  formats::ModelDirectory directory(fixture(base));
  auto model = declare(directory, lora);
  tuning::apply_lora(lora, *model);
  return model;
}

std::string refusal(const tuning::LoraOptions& lora) {
  return error_of([&] { applied(lora); });
}

// What transformers cannot compute (Baichuan's own code), and shapes beside those of the fixtures: merged is unmerged everywhere.
TEST(Lora, MergedAnswersLikeTheAdapterInEveryFamily) {
  for (const char* base : {"families/baichuan2_7b", "families/baichuan2_13b", "families/gemma", "families/gemma2", "families/gemma3", "families/mistral", "families/phi3",
                           "families/phi3_long", "families/qwen2_sliding", "families/qwen3", "families/qwen3_bias", "models/llama3_tiny"}) {
    for (const bool dora : {false, true}) {
      formats::ModelDirectory directory(fixture(base));
      auto lora = lora_on({"all"});
      lora.config.use_dora = dora;
      auto adapted = declare(directory, lora);
      tuning::apply_lora(lora, *adapted);
      adapted->parameters().allocate_weights(Place::host(), DType::f32);
      models::load_weights(*adapted, directory);
      tuning::begin_lora(lora, *adapted, directory);
      uint64_t key = 3;
      for (const auto& p : adapted->parameters().all()) {
        p->trainable = false;
        if (p->name.ends_with(".lora_B.weight"))
          for (uint64_t i = 0; i < static_cast<uint64_t>(p->count()); ++i)
            p->weight.as<float>()[i] = 0.1f * normal_pair(element_bits(key, 2 * i), element_bits(key, 2 * i + 1))[0];
        ++key;
      }
      Workspace w;
      models::save_adapter(w.path(), *adapted, tuning::adapter_config(lora, *adapted), DType::f32);
      auto merged = declare(directory, lora);
      merged->parameters().allocate_weights(Place::host(), DType::f32);
      models::load_weights(*merged, directory);
      const std::vector<int32_t> ids{1, 5, 9, 22, 31, 7, 12, 3, 18, 4, 27};
      const auto plain = logits_of(*merged, ids);
      models::merge_into(*merged, directory, {w.path()});
      EXPECT_LT(relative_error(logits_of(*merged, ids), logits_of(*adapted, ids)), 1e-5) << base << dora;
      EXPECT_GT(relative_error(plain, logits_of(*adapted, ids)), 1e-2) << base << dora;
    }
  }
}

TEST(Lora, AllMeansEveryLinearModuleOfTheLayers) {
  const auto model = applied(lora_on({"all"}));
  int64_t ups = 0;
  for (const auto& p : model->parameters().all()) {
    EXPECT_EQ(p->trainable, p->added) << p->name;
    ups += p->name.ends_with(".lora_B.weight");
  }
  EXPECT_EQ(ups, 14);
  EXPECT_EQ(tuning::adapter_config(lora_on({"all"}), *model).target_modules,
            (std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
  EXPECT_EQ(tuning::adapter_config(lora_on({"all"}), *applied(lora_on({"all"}), "families/baichuan2_7b")).target_modules,
            (std::vector<std::string>{"W_pack", "down_proj", "gate_proj", "o_proj", "up_proj"}));
}

TEST(Lora, ANewAdapterChangesNothingUntilItLearns) {
  formats::ModelDirectory directory(fixture("models/llama2_tiny"));
  const auto lora = lora_on({"all"});
  auto plain = load_model(fixture("models/llama2_tiny")), adapted = declare(directory, lora);
  tuning::apply_lora(lora, *adapted);
  adapted->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(*adapted, directory);
  tuning::begin_lora(lora, *adapted, directory);
  EXPECT_EQ(logits_of(*adapted, {1, 5, 9, 22}), logits_of(*plain, {1, 5, 9, 22}));
  // A: uniform within 1/√in, different for every module.
  const auto a = floats(adapted->parameters().find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")->weight);
  const auto b = floats(adapted->parameters().find("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight")->weight);
  EXPECT_NE(a, b);
  double most = 0, squares = 0;
  for (float x : a) most = std::max<double>(most, std::abs(x)), squares += x * x;
  const double bound = 1 / std::sqrt(32.0);
  EXPECT_LT(most, bound);
  EXPECT_NEAR(squares / static_cast<double>(a.size()), bound * bound / 3, 0.2 * bound * bound / 3);
}

// Magnitudes are as long as the rows, in whatever precision: nothing is scaled by 1.001 before it learns.
TEST(Lora, ANewDoraAdapterChangesNothingInAnyPrecision) {
  formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
  auto lora = lora_on({"all"});
  lora.config.use_dora = true;
  for (DType dtype : {DType::f32, DType::bf16}) {
    const auto answer = [&](const tuning::LoraOptions* adapter, bool masters) {
      auto model = declare(directory, lora);
      if (adapter) tuning::apply_lora(*adapter, *model);
      model->parameters().allocate_weights(Place::host(), dtype);
      if (masters) model->parameters().allocate_masters(Place::host());
      models::load_weights(*model, directory);
      if (adapter) tuning::begin_lora(*adapter, *model, directory);
      return logits_of(*model, {1, 5, 9, 22}, dtype);
    };
    const auto plain = answer(nullptr, false);
    EXPECT_EQ(answer(&lora, false), plain);
    EXPECT_EQ(answer(&lora, true), plain);
  }
}

TEST(Lora, WhatCannotBeIsRefusedAndNamesWhatThereIs) {
  EXPECT_NE(refusal(lora_on({"c_attn"})).find("q_proj"), std::string::npos);
  auto tables = lora_on({"q_proj", "embed_tokens"});
  EXPECT_EQ(refusal(tables), "");
  tables.config.use_dora = true;
  EXPECT_NE(refusal(tables).find("use_dora"), std::string::npos);
  tables.config.use_dora = false;
  tables.start.how = tuning::LoraStart::olora;
  EXPECT_NE(refusal(tables).find("olora"), std::string::npos);
  tables = lora_on({"q_proj", "lm_head"});
  tables.config.modules_to_save = {"lm_head"};  // which goes first, as with PEFT
  EXPECT_FALSE(applied(tables)->head().adapter());
  EXPECT_NE(error_of([] { applied(lora_on({"lm_head"}), "families/baichuan2_7b"); }).find("normalises"), std::string::npos);
  auto o = lora_on({"q_proj"});
  o.config.modules_to_save = {"score"};
  EXPECT_NE(refusal(o).find("score"), std::string::npos);
  o = lora_on({"q_proj"});
  o.config.layers_to_transform = {2};
  EXPECT_NE(refusal(o).find("0 to 1"), std::string::npos);
  o = lora_on({});
  o.config.target_pattern = "nothing.*";
  EXPECT_NE(refusal(o), "");
  o.config.target_pattern = "(";
  EXPECT_NE(refusal(o), "");
}

TEST(Lora, OneOfATiedPairThatIsTrainedIsHeldApart) {
  auto o = lora_on({"q_proj"});
  EXPECT_EQ(applied(o)->parameters().find("lm_head.weight"), nullptr);
  o.config.modules_to_save = {"lm_head"};
  const auto model = applied(o);
  ASSERT_NE(model->parameters().find("lm_head.weight"), nullptr);
  EXPECT_TRUE(model->parameters().find("lm_head.weight")->trainable);
  EXPECT_FALSE(model->embedding().trainable);
}

// Steps with dropout must not depend on how samples are split, and a fixed mask must give gradients of its own loss.
TEST(Lora, DropoutIsAFunctionOfTheTokenAndOnlyOfTraining) {
  const auto run = [](const std::vector<std::vector<int>>& parts, double dropout, nn::Recompute recompute) {
    Adapted a = begin("llama2_lora", DType::f32, recompute);
    a.options.tuning.lora.config.dropout = dropout;
    const Step step = split(eight_samples(150), parts);
    a.options.capacity = capacity_of(step);
    a.options.micro_batches = static_cast<int64_t>(step.micro_batches.size());
    objectives::CausalLm objective;
    auto engine = make_engine(*a.model, objective, a.options);
    const auto result = engine->step(step, 1, 0.0f);
    std::vector<float> all;
    for (const auto& p : a.model->parameters().all())
      if (p->trainable) {
        const auto g = floats(p->gradient);
        all.insert(all.end(), g.begin(), g.end());
      }
    return std::pair(result.loss, all);
  };
  const auto whole = run({{0, 1, 2, 3, 4, 5, 6, 7}}, 0.3, nn::Recompute::light);
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::block}) {
    const auto parts = run({{3, 1}, {0, 7, 2}, {6, 5, 4}}, 0.3, recompute);
    EXPECT_NEAR(parts.first, whole.first, 1e-5);
    EXPECT_LT(relative_error(parts.second, whole.second), 1e-4);
  }
  EXPECT_GT(std::abs(run({{0, 1, 2, 3, 4, 5, 6, 7}}, 0, nn::Recompute::light).first - whole.first), 1e-3);
}

TEST(Lora, TakesFarLessMemoryThanFullTuning) {
  const Step step = split(eight_samples(150), {{0, 1, 2, 3, 4, 5, 6, 7}});
  const auto memory = [&](std::vector<std::string> targets) {
    formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
    train::EngineOptions options;
    options.capacity = capacity_of(step);
    if (!targets.empty()) options.tuning.type = "lora", options.tuning.lora = lora_on(targets);
    auto model = declare(directory, options.tuning.lora);
    train::allocate_model(*model, options, Place::dry());
    objectives::CausalLm objective;
    train::Engine engine(*model, objective, options, Place::dry(), 0);
    engine.dry_run();
    return engine.memory();
  };
  const auto full = memory({}), lora = memory({"all"}), few = memory({"q_proj", "down_proj"});
  EXPECT_LT(lora.gradients, full.gradients / 5);
  EXPECT_LT(lora.optimizer, full.optimizer / 5);
  // What the adapters keep is x·Aᵀ alone: 4 numbers a token for each of 14 modules. Norms and gated activations still leave.
  const auto kept = static_cast<uint64_t>(capacity_of(step).tokens) * 14 * 4 * sizeof(float);
  EXPECT_LE(lora.activations, full.activations + kept + 2048);
  EXPECT_LT(few.activations, lora.activations);
}

// PiSSA and OLoRA begin as the base, and what they save is plain LoRA for the base as it was.
class Beginning : public ::testing::TestWithParam<std::tuple<tuning::LoraStart, int64_t, bool, bool>> {
 protected:
  tuning::LoraOptions options() const {
    auto o = lora_on({"all"});
    o.start.how = std::get<0>(GetParam());
    o.start.pissa_iterations = std::get<1>(GetParam());
    o.config.use_rslora = std::get<2>(GetParam());
    o.config.use_dora = std::get<3>(GetParam());
    o.config.rank_pattern = {{"v_proj", 3}};
    o.config.alpha_pattern = {{"up_proj", 5}};
    return o;
  }
  std::unique_ptr<models::Decoder> begun(const train::EngineOptions& engine, const fs::path& checkpoint = {}) {
    auto model = declare(directory, engine.tuning.lora);
    train::allocate_model(*model, engine, Place::host());
    models::load_weights(*model, directory);
    tuning::begin_lora(engine.tuning.lora, *model, directory, checkpoint);
    return model;
  }
  train::EngineOptions engine_options() const {
    train::EngineOptions e;
    e.tuning.type = "lora";
    e.tuning.lora = options();
    return e;
  }
  formats::ModelDirectory directory{fixture("models/qwen2_tiny")};
};

TEST_P(Beginning, TheModelBeginsAsItsBase) {
  const auto model = begun(engine_options());
  EXPECT_LT(relative_error(logits_of(*model, {1, 7, 30, 99}), logits_of(*load_model(directory.path()), {1, 7, 30, 99})), 1e-5);
  // What the adapter took is gone from the weight.
  const auto base = load_model(directory.path());
  const std::string module = "model.layers.0.mlp.down_proj";
  const auto a = floats(model->parameters().find(formats::kAdapterPrefix + module + ".lora_A.weight")->weight);
  EXPECT_GT(*std::max_element(a.begin(), a.end()), 0);
  const auto weight = [&](models::Decoder& m) { return floats(m.parameters().find(module + ".weight")->weight); };
  const auto norm = [](const std::vector<float>& w) { return std::inner_product(w.begin(), w.end(), w.begin(), 0.0); };
  // OLoRA takes its part out `scale` times, as PEFT does; here that is twice, a reflection.
  if (options().start.how == tuning::LoraStart::pissa) EXPECT_LT(norm(weight(*model)), 0.97 * norm(weight(*base)));
  else EXPECT_GT(relative_error(weight(*model), weight(*base)), 0.1);
}

TEST_P(Beginning, WhatIsSavedIsPlainLoraForTheBaseAndResumes) {
  train::EngineOptions engine_settings = engine_options();
  const auto model = begun(engine_settings);
  const Step step = split(eight_samples(150), {{0, 1, 2, 3, 4, 5, 6, 7}});
  engine_settings.capacity = capacity_of(step);
  objectives::CausalLm objective;
  auto engine = make_engine(*model, objective, engine_settings);
  for (int64_t s = 1; s <= 5; ++s) engine->step(step, s, 1e-3f);
  Workspace w;
  models::save_adapter(w.path(), *model, tuning::saved_config(engine_settings.tuning.lora, *model), DType::f32);
  EXPECT_EQ(formats::read_lora_config(w.path()).r, 8);
  // On the base as it was.
  auto plain = models::declare_adapted(directory, {w.path()});
  plain->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_adapted(*plain, directory, {w.path()});
  const auto now = logits_of(*model, {1, 7, 30, 99});
  EXPECT_LT(relative_error(logits_of(*plain, {1, 7, 30, 99}), now), 1e-5);
  EXPECT_GT(relative_error(logits_of(*load_model(directory.path()), {1, 7, 30, 99}), now), 1e-3);
  // A run that resumes stands where it was, to the bit.
  const auto again = begun(engine_settings, w.path());
  for (const auto& p : model->parameters().all())
    EXPECT_EQ(floats(p->weight), floats(again->parameters().find(p->name)->weight)) << p->name;
}

INSTANTIATE_TEST_SUITE_P(Ways, Beginning,
                         ::testing::Values(std::tuple(tuning::LoraStart::pissa, -1, false, false), std::tuple(tuning::LoraStart::pissa, 16, true, true),
                                           std::tuple(tuning::LoraStart::olora, 16, false, false)));

TEST(Pissa, ExactVectorsAreTheBestApproximationAndIterationsComeNear) {
  // σ of a known matrix: W = Σ σ_k u_k v_kᵀ with orthogonal u, v made of sines.
  const int64_t out = 24, in = 16, rank = 3;
  std::vector<float> w(static_cast<size_t>(out * in));
  const double sigma[] = {9, 5, 2, 0.7, 0.2};
  const auto u = [](int64_t n, int64_t i, int k) { return std::sqrt(2.0 / (n + 1.0)) * std::sin(M_PI * (i + 1.0) * (k + 1.0) / (n + 1.0)); };
  for (int64_t i = 0; i < out; ++i)
    for (int64_t j = 0; j < in; ++j)
      for (int k = 0; k < 5; ++k) w[static_cast<size_t>(i * in + j)] += static_cast<float>(sigma[k] * u(out, i, k) * u(in, j, k));
  nn::Parameter p;
  p.name = "w";
  p.shape = {out, in};
  for (int64_t iterations : {-1, 0, 8}) {
    std::vector<float> left = w, a(static_cast<size_t>(rank * in)), b(static_cast<size_t>(out * rank));
    p.weight = Tensor::matrix(left.data(), DType::f32, out, in);
    const Tensor down = Tensor::matrix(a.data(), DType::f32, rank, in), up = Tensor::matrix(b.data(), DType::f32, out, rank);
    tuning::decompose({tuning::LoraStart::pissa, iterations, 1}, p, 2.0f, down, up);
    tuning::take_out(p, 2.0f, down, up);
    double rest = 0, of_a = 0, of_b = 0;
    for (float x : left) rest += static_cast<double>(x) * x;
    for (float x : a) of_a += static_cast<double>(x) * x;
    for (float x : b) of_b += static_cast<double>(x) * x;
    EXPECT_NEAR(std::sqrt(rest), std::sqrt(0.7 * 0.7 + 0.2 * 0.2), 1e-4) << iterations;
    EXPECT_NEAR(of_a, (9 + 5 + 2) / 2.0, 1e-4);
    EXPECT_NEAR(of_b, of_a, 1e-4);
  }
  EXPECT_NE(error_of([&] {
              std::vector<float> a(20 * 16), b(24 * 20);
              tuning::decompose({tuning::LoraStart::olora, 0, 1}, p, 1.0f, Tensor::matrix(a.data(), DType::f32, 20, in), Tensor::matrix(b.data(), DType::f32, out, 20));
            }).find("lora_rank"), std::string::npos);
}

TEST(PeftConfig, OtherKindsOfAdaptersAreRefusedByName) {
  Workspace w;
  const auto refused = [&](const std::string& key, const Json& value) {
    Json config = read_json(fixture("adapters/llama2_lora/adapter_config.json"));
    config[key] = value;
    w.write("adapter_config.json", config.dump());
    return error_of([&] { formats::read_lora_config(w.path()); });
  };
  EXPECT_EQ(refused("some_new_key", 7), "");
  EXPECT_NE(refused("peft_type", "IA3").find("IA3"), std::string::npos);
  EXPECT_EQ(refused("use_dora", true), "");
  EXPECT_NE(refused("layer_replication", {{0, 1}}).find("layer_replication"), std::string::npos);
  EXPECT_NE(refused("init_lora_weights", "corda").find("corda"), std::string::npos);
  EXPECT_NE(refused("lora_bias", true).find("lora_bias"), std::string::npos);
  EXPECT_NE(refused("r", 0), "");
  EXPECT_NE(refused("r", "8"), "");
  EXPECT_NE(refused("rank_pattern", {{"q_proj", -1}}), "");
  EXPECT_NE(refused("bias", "some"), "");
  w.write("adapter_config.json", "[]");
  EXPECT_NE(error_of([&] { formats::read_lora_config(w.path()); }), "");
  fs::remove(w / "adapter_config.json");
  EXPECT_NE(error_of([&] { formats::read_lora_config(w.path()); }).find("adapter_config.json"), std::string::npos);
}

}  // namespace
}  // namespace attune
