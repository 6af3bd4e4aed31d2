// BAdam: which layer learns when, whose memory moves, and that the others keep still.
#include "tuning/block_rotation.h"

#include <map>
#include <set>

#include "support/errors.h"
#include "support/steps.h"

namespace attune {
namespace {

using namespace test;

std::vector<int64_t> order(const tuning::RotationOptions& options, int64_t updates) {
  auto model = load_model(fixture("models/llama2_tiny"));
  const tuning::BlockRotation rotation(options, *model, false);
  std::vector<int64_t> out;
  for (int64_t u = 1; u <= updates; ++u) out.push_back(rotation.block_at(u));
  return out;
}

TEST(BlockRotation, LayersTakeTurnsInTheGivenOrder) {
  ASSERT_EQ(load_model(fixture("models/llama2_tiny"))->config().num_hidden_layers, 2);
  EXPECT_EQ(order({"ascending", {}, 2, 1}, 6), (std::vector<int64_t>{0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(order({"descending", {}, 1, 1}, 3), (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(order({"ascending", 1, 1, 1}, 3), (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(order({"fixed", 1, 1, 1}, 3), (std::vector<int64_t>{1, 1, 1}));
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto random = order({"random", {}, 1, seed}, 6);
    for (size_t round = 0; round < 6; round += 2) EXPECT_EQ(random[round] + random[round + 1], 1);  // each layer once a round
    orders.insert(random);
  }
  EXPECT_GT(orders.size(), 2u);
}

TEST(BlockRotation, WhatCannotWorkIsRefused) {
  auto model = load_model(fixture("models/llama2_tiny"));
  EXPECT_NE(error_of([&] { tuning::BlockRotation({"fixed", {}, 1, 1}, *model, false); }).find("badam_start_block"), std::string::npos);
  EXPECT_NE(error_of([&] { tuning::BlockRotation({"ascending", 2, 1, 1}, *model, false); }).find("0 to 1"), std::string::npos);
}

// One run over both layers: what changed in each update, and the memory taken.
TEST(BlockRotation, OnlyTheActiveLayerChangesAndItsMemoryIsAllThereIs) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  for (const bool in_backward : {false, true}) {
    auto full_model = load_model(fixture("models/llama2_tiny"), DType::bf16);
    train::EngineOptions options = options_for(step);
    options.compute = DType::bf16;
    options.masters = true;
    const uint64_t full = make_engine(*full_model, objective, options)->memory().optimizer;

    options.rotation = tuning::RotationOptions{"ascending", {}, 2, 1};
    options.optimizer_in_backward = in_backward;
    if (in_backward) options.clipping = train::Clipping::previous_step;
    models::Decoder model(full_model->config());
    train::allocate_model(model, options, Place::host());
    formats::ModelDirectory directory(fixture("models/llama2_tiny"));
    models::load_weights(model, directory);
    auto engine = make_engine(model, objective, options);
    EXPECT_LT(engine->memory().optimizer, full / 2);
    std::map<std::string, std::vector<uint16_t>> before;
    const auto bits = [](const Tensor& t) { return std::vector<uint16_t>(t.as<uint16_t>(), t.as<uint16_t>() + t.count()); };
    for (int64_t update = 1; update <= 6; ++update) {
      for (const auto& p : model.parameters().all()) before[p->name] = bits(p->weight);
      engine->step(step, update, 0.01f);
      const int64_t active = (update - 1) / 2 % 2;
      for (const auto& p : model.parameters().all()) {
        const auto layer = tuning::layer_of(p->name);
        EXPECT_EQ(bits(p->weight) != before[p->name], layer == active) << p->name << " in update " << update;
        EXPECT_EQ(p->master.defined(), layer == active) << p->name;
        EXPECT_EQ(p->learns(), layer.has_value());
      }
      EXPECT_LE(engine->arena().high_water(), engine->arena().capacity());
    }
  }
}

TEST(BlockRotation, ALayerBeginsItsTurnAsAFreshOptimizerWould) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  train::EngineOptions options = options_for(step);
  options.max_grad_norm = 0;
  options.rotation = tuning::RotationOptions{"ascending", {}, 1, 1};
  auto model = load_model(fixture("models/llama2_tiny"));
  auto engine = make_engine(*model, objective, options);
  engine->step(step, 1, 0.01f);
  // The same from here with a new engine that trains layer 1 alone.
  auto again = load_model(fixture("models/llama2_tiny"));
  for (const auto& p : model->parameters().all()) {
    const auto values = floats(p->weight);
    std::copy(values.begin(), values.end(), again->parameters().find(p->name)->weight.as<float>());
  }
  engine->step(step, 2, 0.01f);
  options.rotation = tuning::RotationOptions{"fixed", 1, 1, 1};
  make_engine(*again, objective, options)->step(step, 1, 0.01f);
  for (const auto& p : model->parameters().all()) EXPECT_EQ(floats(p->weight), floats(again->parameters().find(p->name)->weight)) << p->name;
}

}  // namespace
}  // namespace attune
