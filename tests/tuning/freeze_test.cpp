// finetuning_type: freeze: what is chosen, that only it changes, and that its gradients are those of full tuning.
#include "tuning/tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

std::set<std::string> trained(const tuning::TunerOptions& options) {
  formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
  auto model = models::declare(directory);
  tuning::apply(options, *model);
  std::set<std::string> names;
  for (const auto& p : model->parameters().all())
    if (p->trainable) names.insert(p->name);
  return names;
}

std::string refusal(const tuning::TunerOptions& options) {
  try {
    trained(options);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

tuning::TunerOptions freeze(int64_t layers) {
  tuning::TunerOptions o;
  o.type = "freeze";
  o.freeze_trainable_layers = layers;
  return o;
}

TEST(Freeze, LastAndFirstLayers) {
  for (const std::string& name : trained(freeze(1))) EXPECT_NE(name.find("layers.1."), std::string::npos) << name;
  for (const std::string& name : trained(freeze(-1))) EXPECT_NE(name.find("layers.0."), std::string::npos) << name;
  EXPECT_EQ(trained(freeze(1)).size(), trained(freeze(-1)).size());
  EXPECT_EQ(trained(freeze(2)).count("model.embed_tokens.weight"), 0u);
}

TEST(Freeze, ModulesByNameInsideAndOutsideOfTheLayers) {
  auto o = freeze(1);
  o.freeze_trainable_modules = {"mlp", "q_proj"};
  o.freeze_extra_modules = {"norm"};
  EXPECT_EQ(trained(o), (std::set<std::string>{"model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.gate_proj.weight",
                                               "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.bias",
                                               "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"}));
}

TEST(Freeze, PatternsChooseExactlyWhatTheyFind) {
  auto o = freeze(1);
  o.unfrozen_parameters = {"^model\\.norm", "layers\\.0\\..*o_proj"};
  EXPECT_EQ(trained(o), (std::set<std::string>{"model.norm.weight", "model.layers.0.self_attn.o_proj.weight"}));
}

TEST(Freeze, WhatChoosesNothingIsRefusedAndNamesWhatThereIs) {
  EXPECT_NE(refusal(freeze(0)).find("1 to 2"), std::string::npos);
  EXPECT_NE(refusal(freeze(-7)), "");
  auto o = freeze(1);
  o.freeze_trainable_modules = {"attention"};
  EXPECT_NE(refusal(o).find("self_attn"), std::string::npos);
  o = freeze(1);
  o.freeze_extra_modules = {"mlp"};
  EXPECT_NE(refusal(o).find("embed_tokens"), std::string::npos);
  o = freeze(1);
  o.freeze_trainable_modules = {};  // a run that trains nothing
  EXPECT_NE(refusal(o).find("nothing to train"), std::string::npos);
  o = freeze(1);
  o.unfrozen_parameters = {"lora"};
  EXPECT_NE(refusal(o), "");
  o.unfrozen_parameters = {"("};
  EXPECT_NE(refusal(o), "");
}

// One step with everything trained and one with some frozen: the loss agrees, the trained gradients agree to the bit, and
// nothing frozen moves.
class FrozenStep : public ::testing::TestWithParam<std::tuple<int64_t, nn::Recompute, DType>> {};

TEST_P(FrozenStep, GradientsAreThoseOfFullTuningAndTheRestStays) {
  const auto [layers, recompute, compute] = GetParam();
  const auto model_of = [&, compute = compute](train::EngineOptions& options) {
    formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
    auto model = models::declare(directory);
    options.masters = options.compute != DType::f32;
    train::allocate_model(*model, options, Place::host());
    models::load_weights(*model, directory);
    return model;
  };
  std::vector<Sample> samples(2);
  for (int i = 0; i < 12; ++i) samples[static_cast<size_t>(i % 2)].ids.push_back(i * 11 % 150);
  for (Sample& s : samples) s.weights.assign(s.ids.size(), 1.0f);
  const Step step = step_of({batch_of(samples)});
  objectives::CausalLm objective;
  train::EngineOptions full, frozen;
  for (train::EngineOptions* o : {&full, &frozen}) {
    o->capacity = capacity_of(step);
    o->compute = compute;
    o->recompute = recompute;
  }
  frozen.tuning = freeze(layers);
  const auto all = model_of(full), some = model_of(frozen);
  std::map<std::string, std::vector<float>> before;
  for (const auto& p : some->parameters().all()) before[p->name] = floats(p->stepped());
  auto a = make_engine(*all, objective, full), b = make_engine(*some, objective, frozen);
  const auto ra = a->step(step, 1, 1e-2f), rb = b->step(step, 1, 1e-2f);
  EXPECT_EQ(ra.loss, rb.loss);
  EXPECT_LT(rb.grad_norm, ra.grad_norm);
  EXPECT_LT(b->memory().total(), a->memory().total());
  for (const auto& p : some->parameters().all()) {
    if (!p->trainable) {
      EXPECT_FALSE(p->gradient.defined()) << p->name;
      EXPECT_EQ(floats(p->stepped()), before[p->name]) << p->name;
      continue;
    }
    EXPECT_NE(floats(p->stepped()), before[p->name]) << p->name;
    EXPECT_EQ(floats(p->gradient), floats(all->parameters().find(p->name)->gradient)) << p->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, FrozenStep,
                         ::testing::Combine(::testing::Values(int64_t{1}, int64_t{-1}, int64_t{2}),
                                            ::testing::Values(nn::Recompute::none, nn::Recompute::light, nn::Recompute::block),
                                            ::testing::Values(DType::f32, DType::bf16)));

}  // namespace
}  // namespace attune
