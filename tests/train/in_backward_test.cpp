// Updates inside the backward pass: the same weights as after it, with less memory; what cannot work is refused.
#include <algorithm>
#include <map>

#include "support/errors.h"
#include "support/steps.h"

namespace attune {
namespace {

using namespace test;
using Gradients = std::map<std::string, std::vector<float>>;

class InBackward : public ::testing::TestWithParam<std::tuple<const char*, nn::Recompute>> {};

TEST_P(InBackward, SgdGivesTheSameWeightsBitForBit) {
  const auto [name, recompute] = GetParam();
  const Step step = split(eight_samples(150), {{0, 1, 2, 3, 4, 5, 6, 7}});
  objectives::CausalLm objective;
  Gradients plain;
  uint64_t plain_gradients = 0;
  for (bool in_backward : {false, true}) {
    auto model = load_model(fixture("models") / name);
    train::EngineOptions options = options_for(step);
    options.optimizer.name = "sgd";
    options.max_grad_norm = 0;
    options.recompute = recompute;
    options.optimizer_in_backward = in_backward;
    auto engine = make_engine(*model, objective, options);
    for (int64_t s = 1; s <= 3; ++s) engine->step(step, s, 0.1f);
    for (const auto& p : model->parameters().all()) {
      if (!in_backward) {
        plain[p->name] = floats(p->weight);
      } else {
        EXPECT_EQ(floats(p->weight), plain[p->name]) << p->name;
      }
    }
    if (!in_backward) {
      plain_gradients = engine->memory().gradients;
    } else {
      EXPECT_LT(engine->memory().gradients, plain_gradients);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, InBackward,
                         ::testing::Combine(::testing::Values("llama2_tiny", "qwen2_tiny"),
                                            ::testing::Values(nn::Recompute::none, nn::Recompute::light, nn::Recompute::block)));

TEST(InBackward, WhatCannotWorkIsRefusedWithTheWayOut) {
  auto model = load_model(fixture("models/llama2_tiny"));
  objectives::CausalLm objective;
  const train::EngineOptions plain = options_for(split(eight_samples(150), {{0}}));
  const auto refusal = [&](auto change) {
    train::EngineOptions options = plain;
    options.optimizer_in_backward = true;
    options.clipping = train::Clipping::previous_step;
    change(options);
    return error_of([&] { make_engine(*model, objective, options); });
  };
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_NE(refusal([](auto& o) { o.micro_batches = 2; }).find("per_device_train_batch_size"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.loss_scaling = true; }).find("bf16"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.clipping = train::Clipping::global; }).find("previous_step"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.optimizer_in_backward = false; }).find("global"), std::string::npos);
}

double length(const std::vector<float>& x) {
  double squared = 0;
  for (float v : x) squared += static_cast<double>(v) * v;
  return std::sqrt(squared);
}

Gradients weights_of(const models::Decoder& model) {
  Gradients all;
  for (const auto& p : model.parameters().all()) all[p->name] = floats(p->weight);
  return all;
}

// How far each parameter has moved from `before`.
std::map<std::string, double> moved_from(const Gradients& before, const models::Decoder& model) {
  std::map<std::string, double> moved;
  for (auto& [name, after] : weights_of(model)) {
    std::vector<float> way = after;
    for (size_t i = 0; i < way.size(); ++i) way[i] -= before.at(name)[i];
    moved[name] = length(way);
  }
  return moved;
}

// How far one SGD update at rate 1 moves each parameter, and how long its gradient is.
struct Moves {
  std::map<std::string, double> moved, gradient;
  double norm = 0;
};

Moves second_update(train::EngineOptions options, float max_grad_norm, const Step& step) {
  auto model = load_model(fixture("models/llama2_tiny"));
  objectives::CausalLm objective;
  options.optimizer.name = "sgd";
  options.max_grad_norm = max_grad_norm;
  auto engine = make_engine(*model, objective, options);
  engine->step(step, 1, 0.0f);  // moves nothing, but is measured
  const Gradients before = weights_of(*model);
  Moves result;
  result.norm = engine->step(step, 2, 1.0f).grad_norm;
  result.moved = moved_from(before, *model);
  for (const auto& p : model->parameters().all())
    if (p->gradient.defined()) result.gradient[p->name] = length(floats(p->gradient));
  return result;
}

TEST(InBackward, PreviousStepClipsByTheNormOfTheUpdateBefore) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  train::EngineOptions global = options_for(step), inside = options_for(step);
  inside.optimizer_in_backward = true;
  inside.clipping = train::Clipping::previous_step;
  for (float limit : {0.01f, 1e6f}) {  // the first update had a rate of 0: both norms are the same, and so are the moves
    const Moves a = second_update(global, limit, step), b = second_update(inside, limit, step);
    EXPECT_NEAR(a.norm, b.norm, 1e-5 * a.norm);
    for (const auto& [name, distance] : a.moved) EXPECT_NEAR(b.moved.at(name), distance, 2e-3 * distance + 1e-7) << name;
  }
}

TEST(InBackward, TheFirstUpdateIsClippedAsGlobalClippingWould) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  Gradients after;
  for (const bool in_backward : {false, true}) {
    auto model = load_model(fixture("models/llama2_tiny"));
    train::EngineOptions options = options_for(step);
    options.max_grad_norm = 0.01f;
    options.optimizer_in_backward = in_backward;
    options.clipping = in_backward ? train::Clipping::previous_step : train::Clipping::global;
    options.optimizer.name = "sgd";
    auto engine = make_engine(*model, objective, options);
    const double norm = engine->step(step, 1, 1.0f).grad_norm;
    EXPECT_GT(norm, 0.02);
    const double flops = engine->step_work().flops;  // measuring is no part of an update's work
    for (const auto& p : model->parameters().all()) {
      const auto now = floats(p->weight);
      if (!in_backward) after[p->name] = now;
      else for (size_t i = 0; i < now.size(); ++i) EXPECT_NEAR(now[i], after[p->name][i], 1e-6) << p->name;
    }
    engine->step(step, 2, 0.0f);
    EXPECT_EQ(engine->step_work().flops, flops);
  }
}

// A longer gradient all over is noticed at its first tensor: the update is no longer than global clipping would have it.
TEST(InBackward, PreviousStepFollowsAGradientThatIsLongerThanTheOneBefore) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  train::EngineOptions global = options_for(step);
  const Moves a = second_update(global, 0.01f, step);
  auto model = load_model(fixture("models/llama2_tiny"));
  objectives::CausalLm objective;
  train::EngineOptions inside = options_for(step);
  inside.optimizer.name = "sgd";
  inside.optimizer_in_backward = true;
  inside.clipping = train::Clipping::previous_step;
  inside.max_grad_norm = 0.01f;
  auto engine = make_engine(*model, objective, inside);
  engine->step(step, 1, 0.0f);
  auto shorter = engine->completed_squares();
  for (double& s : shorter) s /= 25;
  engine->set_completed_squares(shorter);
  const Gradients before = weights_of(*model);
  engine->step(step, 2, 1.0f);
  for (const auto& [name, distance] : moved_from(before, *model))
    EXPECT_NEAR(distance, a.moved.at(name), 2e-3 * a.moved.at(name) + 1e-7) << name;
}

TEST(InBackward, NoTensorExceedsTheLimitEvenWhereTheUpdateBeforeWasSmall) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  auto model = load_model(fixture("models/llama2_tiny"));
  objectives::CausalLm objective;
  train::EngineOptions options = options_for(step);
  options.optimizer.name = "sgd";
  options.optimizer_in_backward = true;
  options.clipping = train::Clipping::previous_step;
  options.max_grad_norm = 0.01f;
  auto engine = make_engine(*model, objective, options);
  engine->set_completed_squares({1e-12, 1e-12, 1e-12});
  const Gradients before = weights_of(*model);
  engine->step(step, 1, 1.0f);
  double most = 0;
  for (const auto& [name, distance] : moved_from(before, *model)) most = std::max(most, distance);
  EXPECT_NEAR(most, 0.01, 1e-4);
}

TEST(InBackward, PerTensorClipsEachParameterByItsOwnNorm) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  train::EngineOptions after = options_for(step), inside = options_for(step);
  after.clipping = inside.clipping = train::Clipping::per_tensor;
  inside.optimizer_in_backward = true;
  std::vector<double> lengths;
  for (const auto& [name, gradient] : second_update(after, 1e6f, step).gradient) lengths.push_back(gradient);
  std::sort(lengths.begin(), lengths.end());
  const double limit = lengths[lengths.size() / 2] * 1.001;  // half of them are longer
  const Moves a = second_update(after, static_cast<float>(limit), step), b = second_update(inside, static_cast<float>(limit), step);
  bool clipped = false, free = false;
  for (const auto& [name, gradient] : a.gradient) {
    const double expected = std::min(limit, gradient);
    EXPECT_NEAR(a.moved.at(name), expected, 2e-3 * expected + 1e-7) << name;
    EXPECT_NEAR(b.moved.at(name), expected, 2e-3 * expected + 1e-7) << name;
    (gradient > limit ? clipped : free) = true;
  }
  EXPECT_TRUE(clipped && free);
}

TEST(InBackward, ALossThatIsNotFiniteChangesNoWeight) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  auto model = load_model(fixture("models/llama2_tiny"));
  model->embedding().weight.row<float>(step.micro_batches[0].tokens[2])[0] = NAN;
  objectives::CausalLm objective;
  train::EngineOptions options = options_for(step);
  options.optimizer_in_backward = true;
  options.max_grad_norm = 0;
  auto engine = make_engine(*model, objective, options);
  const auto before = floats(model->head_weight().weight);
  EXPECT_THROW(engine->step(step, 1, 1.0f), train::BadToken);
  EXPECT_EQ(floats(model->head_weight().weight), before);
}

TEST(InBackward, AGradientThatIsNotFiniteNamesTheTensorAndSaysThatTheModelIsSpoiled) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  auto model = load_model(fixture("models/llama2_tiny"));
  // Small enough for a finite loss, so large that the gradient of what lies before it overflows.
  nn::Parameter* down = model->parameters().find("model.layers.0.mlp.down_proj.weight");
  nn::Parameter* up = model->parameters().find("model.layers.0.mlp.up_proj.weight");
  ASSERT_TRUE(down && up);
  for (int64_t i = 0; i < down->count(); ++i) down->weight.as<float>()[i] *= 1e30f;
  for (int64_t i = 0; i < up->count(); ++i) up->weight.as<float>()[i] *= 1e-30f;
  objectives::CausalLm objective;
  train::EngineOptions options = options_for(step);
  options.optimizer_in_backward = true;
  options.max_grad_norm = 0;
  auto engine = make_engine(*model, objective, options);
  try {
    engine->step(step, 1, 1.0f);
    FAIL() << "no error";
  } catch (const train::SpoiledModel& error) {
    EXPECT_NE(std::string(error.what()).find("model.layers.0.mlp."), std::string::npos) << error.what();
  }
}

// A vocabulary so large that the head's logits do not fit one chunk.
class LargeVocabulary : public ::testing::TestWithParam<std::tuple<const char*, train::Clipping>> {};

std::unique_ptr<models::Decoder> large_vocabulary(DType dtype) {
  models::DecoderConfig c;
  c.family = "llama";
  c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 1, c.num_attention_heads = 2, c.num_key_value_heads = 1;
  c.head_dim = 8, c.vocab_size = 60'000, c.max_position_embeddings = 2048;
  auto model = std::make_unique<models::Decoder>(c);
  model->parameters().allocate_weights(Place::host(), dtype);
  models::initialise_weights(*model, 3);
  return model;
}

TEST_P(LargeVocabulary, SlabsGiveTheWeightsOfChunksInLessMemoryAsPlanned) {
  const auto [optimizer, clipping] = GetParam();
  Sample sample;
  for (int i = 0; i < 1500; ++i) {
    sample.ids.push_back((i * 7919 + 13) % 60'000);
    sample.weights.push_back(1);
  }
  MicroBatch batch;
  batch.add_sequence(0, sample.ids, sample.weights, 0);
  const Step step = step_of({batch});
  objectives::CausalLm objective;
  Gradients plain;
  uint64_t plain_peak = 0;
  for (bool in_backward : {false, true}) {
    auto model = large_vocabulary(DType::f32);
    train::EngineOptions options = options_for(step);
    options.optimizer.name = optimizer;
    options.optimizer.scale_parameter = true;
    options.max_grad_norm = clipping == train::Clipping::per_tensor ? 0.01f : 0;
    options.clipping = clipping;
    options.optimizer_in_backward = in_backward;
    auto engine = make_engine(*model, objective, options);
    ASSERT_LT(model->head().chunk_rows(1499), 1499);
    for (int64_t s = 1; s <= 2; ++s) engine->step(step, s, 0.01f);
    EXPECT_EQ(engine->arena().high_water(), engine->arena().capacity());
    const uint64_t peak = engine->memory().total();
    for (const auto& p : model->parameters().all()) {
      const auto now = floats(p->weight);
      if (!in_backward) {
        plain[p->name] = now;
        continue;
      }
      double difference = 0, size = 0;
      for (size_t i = 0; i < now.size(); ++i) {
        difference += std::pow(now[i] - plain[p->name][i], 2);
        size += std::pow(now[i], 2);
      }
      EXPECT_LT(std::sqrt(difference / size), 2e-4) << p->name;
    }
    if (!in_backward) plain_peak = peak;
    else EXPECT_LT(peak, plain_peak);
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, LargeVocabulary,
                         ::testing::Values(std::tuple{"adamw", train::Clipping::global},
                                           std::tuple{"adafactor", train::Clipping::global},
                                           std::tuple{"sgd", train::Clipping::per_tensor}));

}  // namespace
}  // namespace attune
