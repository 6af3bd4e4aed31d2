// Several adapters beside one base: the sum is what merging gives, a switch is a fresh load, and what has no sum is refused.
#include <gtest/gtest.h>

#include "infer/session.h"
#include "models/adapter_set.h"
#include "models/merge.h"
#include "support/errors.h"
#include "support/fixtures.h"
#include "support/workspace.h"

namespace attune {
namespace {

using namespace test;
using models::NamedAdapter;

const std::vector<int32_t> kText{1, 5, 9, 22, 40, 7, 33};

std::string adapter(const std::string& name) { return fixture("adapters/" + name).string(); }

std::vector<float> logits_of(models::Decoder& model, DType dtype = DType::f32) { return infer::Session(model, dtype, "model").logits(kText); }

// As every command loads one adapter, or none.
std::vector<float> fresh(const std::string& base, const std::vector<std::string>& directories, DType dtype = DType::f32) {
  formats::ModelDirectory files(fixture(base));
  auto model = models::declare_adapted(files, directories);
  model->parameters().allocate_weights(Place::host(), dtype);
  models::load_adapted(*model, files, directories);
  for (const auto& p : model->parameters().all()) p->trainable = false;
  return logits_of(*model, dtype);
}

// The base with W + Σ weight·scale·B·A, as attune merge makes it.
std::vector<float> merged(const std::string& base, const std::vector<std::pair<std::string, double>>& adapters) {
  formats::ModelDirectory files(fixture(base));
  std::vector<std::string> directories;
  for (const auto& [directory, weight] : adapters) directories.push_back(directory);
  models::Decoder model(models::adapted_config(files, directories));
  model.parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(model, files);
  for (const auto& [directory, weight] : adapters) {
    const models::AdapterDelta delta(directory, weight);
    for (const std::string& name : delta.names()) {
      nn::Parameter& p = *model.parameters().find(name);
      delta.apply(name, p.shape, 0, p.is_vector() ? 1 : p.shape[0], p.weight.as<float>());
    }
  }
  return logits_of(model);
}

struct Switchable {
  Switchable(const std::string& base, std::vector<NamedAdapter> adapters, DType type = DType::f32) : dtype(type), files(fixture(base)) {
    models::AdapterRequest request{{}, adapters, ""};
    model = std::make_unique<models::Decoder>(models::adapted_config(files, request.directories()));
    set = std::make_unique<models::AdapterSet>(*model, adapters);
    model->parameters().allocate_weights(Place::host(), dtype);
    models::load_weights(*model, files);
    for (const auto& p : model->parameters().all()) p->trainable = false;
    set->load(dtype);
  }
  std::vector<float> use(const std::string& choice) {
    set->select(models::parse_weights(choice, set->adapters()));
    return logits_of(*model, dtype);
  }
  DType dtype;
  formats::ModelDirectory files;
  std::unique_ptr<models::Decoder> model;
  std::unique_ptr<models::AdapterSet> set;
};

const std::string kLlama = "models/llama2_tiny", kQwen = "models/qwen2_tiny";

TEST(AdapterSet, TheSumIsWhatMergingGives) {
  Switchable s(kLlama, {{"all", adapter("llama2_lora")}, {"tables", adapter("llama2_tables")}});
  for (const auto& [choice, all, tables] : {std::tuple{"all+tables", 1.0, 1.0}, {"0.7*all+tables", 0.7, 1.0}, {"tables + -1.5*all", -1.5, 1.0}, {"0.25 * all", 0.25, 0.0}}) {
    std::vector<std::pair<std::string, double>> parts{{adapter("llama2_lora"), all}};
    if (tables != 0) parts.insert(parts.begin(), {adapter("llama2_tables"), tables});
    EXPECT_LT(relative_error(s.use(choice), merged(kLlama, parts)), 1e-5) << choice;
  }
  EXPECT_GT(relative_error(s.use("all+tables"), s.use("all")), 1e-2);
}

TEST(AdapterSet, ASwitchIsAFreshLoadToTheBit) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Switchable llama(kLlama, {{"lora", adapter("llama2_lora")}, {"dora", adapter("llama2_dora")}, {"tables", adapter("llama2_tables")}}, dtype);
    for (const char* name : {"dora", "lora", "tables", "lora", "none", "dora", "none"}) {
      const bool none = std::string(name) == "none";
      EXPECT_EQ(llama.use(name), fresh(kLlama, none ? std::vector<std::string>{} : std::vector<std::string>{adapter(fmt::format("llama2_{}", name))}, dtype)) << name;
    }
    // Norms, biases and a head of their own change places with the base's, whichever was there before.
    Switchable qwen(kQwen, {{"rslora", adapter("qwen2_rslora")}, {"head", adapter("qwen2_head")}, {"dora", adapter("qwen2_dora")}, {"tables", adapter("qwen2_tables")}}, dtype);
    for (const char* name : {"rslora", "head", "rslora", "dora", "head", "none", "tables", "rslora", "none"}) {
      const bool none = std::string(name) == "none";
      EXPECT_EQ(qwen.use(name), fresh(kQwen, none ? std::vector<std::string>{} : std::vector<std::string>{adapter(fmt::format("qwen2_{}", name))}, dtype)) << name;
    }
  }
}

TEST(AdapterSet, WhatHasNoSumIsRefusedAndChangesNothing) {
  Switchable s(kQwen, {{"rslora", adapter("qwen2_rslora")}, {"head", adapter("qwen2_head")}, {"dora", adapter("qwen2_dora")}, {"tables", adapter("qwen2_tables")}, {"again", adapter("qwen2_tables")}});
  const auto before = s.use("rslora");
  const auto refused = [&](const std::string& choice) { return error_of([&] { s.use(choice); }); };
  EXPECT_NE(refused("dora+rslora").find("DoRA"), std::string::npos);
  EXPECT_NE(refused("0.5*dora").find("DoRA"), std::string::npos);
  EXPECT_NE(refused("rslora+head").find("q_proj.bias"), std::string::npos) << refused("rslora+head");
  EXPECT_NE(refused("0.5*rslora").find("weight"), std::string::npos);
  EXPECT_NE(refused("tables+again").find("embed_tokens"), std::string::npos);
  EXPECT_NE(refused("law").find("rslora, head, dora, tables, again"), std::string::npos);
  EXPECT_NE(refused("rslora+rslora").find("twice"), std::string::npos);
  for (const char* broken : {"x*rslora", "*rslora", "rslora+", "1e9*rslora", "nan*rslora", "0.5rslora"}) EXPECT_NE(refused(broken), "") << broken;
  EXPECT_EQ(logits_of(*s.model), before);
  EXPECT_EQ(s.use("rslora+tables"), s.use("rslora + tables"));
}

TEST(AdapterSet, AnAdapterOfAnotherBaseIsRefused) {
  EXPECT_NE(error_of([] { Switchable s(kQwen, {{"llama", adapter("llama2_lora")}, {"own", adapter("qwen2_dora")}}); }).find("another base"), std::string::npos);
}

TEST(AdapterSet, WeightsAreWrittenAsTheyAreRead) {
  const std::vector<NamedAdapter> set{{"law", "a"}, {"tone", "b"}, {"code", "c"}};
  EXPECT_EQ(models::parse_weights("", set), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(models::parse_weights("none", set), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(models::parse_weights("code + 0.5*law", set), (std::vector<double>{0.5, 0, 1}));
  EXPECT_EQ(models::weights_text({0.5, 0, 1}, set), "0.5*law+code");
  EXPECT_EQ(models::weights_text({0, 0, 0}, set), "none");
  EXPECT_NE(error_of([] { models::parse_weights("law", {}); }).find("--adapter"), std::string::npos);
}

}  // namespace
}  // namespace attune
