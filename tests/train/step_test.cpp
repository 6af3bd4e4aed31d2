// What a training step means, as properties: splitting, order, packing and recomputation change nothing but rounding; a
// dry run measures a real one to the byte.
#include <fmt/format.h>

#include <map>

#include "support/steps.h"

namespace attune {
namespace {

using namespace test;
using Gradients = std::map<std::string, std::vector<float>>;

class Accumulation : public ::testing::TestWithParam<std::tuple<const char*, float>> {};

TEST_P(Accumulation, SplittingOrderAndPackingOfAStepChangeOnlyRounding) {
  const auto [name, dropout] = GetParam();
  auto model = load_model(fixture("models") / name);
  const auto samples = eight_samples(150);
  const std::vector<std::vector<std::vector<int>>> ways{
      {{0, 1, 2, 3, 4, 5, 6, 7}},                    // packed into one stream
      {{0, 1, 2, 3}, {4, 5, 6, 7}},                  // 2 × 4
      {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}},      // 8 × 1
      {{7, 2, 5, 0, 6, 1, 4, 3}},                    // another order
      {{6, 0}, {3}, {7, 1, 2, 5}, {4}}};             // uneven
  objectives::CausalLm objective;
  Gradients first;
  double loss = 0, norm = 0;
  for (size_t way = 0; way < ways.size(); ++way) {
    const Step step = split(samples, ways[way]);
    train::EngineOptions options = options_for(step);
    options.attention_dropout = options.hidden_dropout = dropout;
    auto engine = make_engine(*model, objective, options);
    const auto result = engine->step(step, 3, 0.0f);
    if (way == 0) {
      loss = result.loss;
      norm = result.grad_norm;
    }
    EXPECT_NEAR(result.loss, loss, 1e-5 * loss) << way;
    EXPECT_NEAR(result.grad_norm, norm, 1e-5 * norm) << way;
    for (const auto& p : model->parameters().all()) {
      if (way == 0) {
        first[p->name] = floats(p->gradient);
        continue;
      }
      // Against the largest gradient of the model: that of a key bias is zero but for rounding.
      double error = 0;
      const auto g = floats(p->gradient);
      for (size_t i = 0; i < g.size(); ++i) error = std::max(error, std::abs(static_cast<double>(g[i]) - first[p->name][i]));
      EXPECT_LT(error, 1e-5 * norm) << p->name << " way " << way;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Accumulation,
                         ::testing::Combine(::testing::Values("llama2_tiny", "qwen2_tiny"), ::testing::Values(0.0f, 0.25f)));

TEST(Dropout, ChangesWithTheStepAndRepeatsWithIt) {
  auto model = load_model(fixture("models/llama2_tiny"));
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  train::EngineOptions options = options_for(step);
  options.hidden_dropout = 0.2f;
  auto engine = make_engine(*model, objective, options);
  const double a = engine->step(step, 1, 0.0f).loss, b = engine->step(step, 2, 0.0f).loss, again = engine->step(step, 1, 0.0f).loss;
  EXPECT_NE(a, b);
  EXPECT_EQ(a, again);
}

// A defect of others: NEFTune's noise stays on while a model is evaluated.
TEST(Dropout, NoiseAndDropoutBelongToTrainingAlone) {
  auto model = load_model(fixture("models/llama2_tiny"));
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm plain_loss, smoothed(0.1f);
  std::vector<objectives::Outcome> plain, noisy;
  train::EngineOptions options = options_for(step);
  options.eval_capacity = options.capacity;
  make_engine(*model, plain_loss, options)->evaluate(step, plain);
  options.neftune_noise_alpha = 5, options.hidden_dropout = options.embedding_dropout = options.attention_dropout = 0.3f;
  auto engine = make_engine(*model, smoothed, options);
  EXPECT_NE(engine->step(step, 1, 0.0f).loss, 0);
  engine->evaluate(step, noisy);
  ASSERT_EQ(noisy.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(noisy[i].loss, plain[i].loss);
}

// Clipping and the global norm ------------------------------------------------------------------------------------------

TEST(Clipping, ScalesByTheGlobalNormOnlyWhereItIsTooLarge) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  for (float limit : {0.01f, 1e6f}) {
    auto model = load_model(fixture("models/llama2_tiny")), before = load_model(fixture("models/llama2_tiny"));
    train::EngineOptions options = options_for(step);
    options.optimizer.name = "sgd";
    options.max_grad_norm = limit;
    auto engine = make_engine(*model, objective, options);
    const double norm = engine->step(step, 1, 1.0f).grad_norm;
    double moved = 0, squared = 0;
    for (const auto& p : model->parameters().all()) {
      const auto a = floats(p->weight), b = floats(before->parameters().find(p->name)->weight), g = floats(p->gradient);
      for (size_t i = 0; i < a.size(); ++i) {
        moved += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        squared += static_cast<double>(g[i]) * g[i];
      }
    }
    EXPECT_NEAR(norm, std::sqrt(squared), 1e-4 * norm);
    EXPECT_NEAR(std::sqrt(moved), std::min<double>(limit, norm), 1e-3 * std::min<double>(limit, norm));
  }
}

TEST(WeightDecay, IsForMatricesNotForNormsAndBiases) {
  const Step step = split(eight_samples(150), {{1, 2, 3}});
  objectives::CausalLm objective;
  for (const char* optimizer : {"adamw", "sgd"}) {
    auto plain = load_model(fixture("models/qwen2_tiny")), decayed = load_model(fixture("models/qwen2_tiny"));
    for (auto* model : {plain.get(), decayed.get()}) {
      train::EngineOptions options = options_for(step);
      options.optimizer.name = optimizer;
      options.optimizer.weight_decay = model == plain.get() ? 0.0f : 0.5f;
      make_engine(*model, objective, options)->step(step, 1, 0.01f);
    }
    for (const auto& p : plain->parameters().all())
      EXPECT_EQ(floats(p->weight) == floats(decayed->parameters().find(p->name)->weight), p->is_vector()) << p->name;
  }
}

// Dry runs ----------------------------------------------------------------------------------------------------------------


class DryRun : public ::testing::TestWithParam<std::tuple<const char*, nn::Recompute, DType, bool>> {};

TEST_P(DryRun, MeasuresTheRealStepToTheByte) {
  const auto [name, recompute, dtype, in_backward] = GetParam();
  objectives::CausalLm objective;
  const auto samples = eight_samples(150);
  for (const auto& parts : std::vector<std::vector<std::vector<int>>>{{{0, 1, 2, 3, 4, 5, 6, 7}}, {{7}}, {{1, 2}, {1, 2}}}) {
    if (in_backward && parts.size() > 1) continue;
    auto model = load_model(fixture("models") / name, dtype);
    const Step step = split(samples, parts);
    train::EngineOptions options = options_for(step);
    options.recompute = recompute;
    options.compute = dtype;
    options.optimizer_in_backward = in_backward;
    if (in_backward) options.max_grad_norm = 0;
    options.attention_dropout = options.hidden_dropout = 0.1f;
    auto engine = make_engine(*model, objective, options);  // its arena is as large as the dry run says
    engine->step(step, 1, 1e-3f);
    EXPECT_EQ(engine->arena().high_water(), engine->arena().capacity());
    EXPECT_EQ(engine->arena().used(), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, DryRun,
                         ::testing::Combine(::testing::Values("llama2_tiny", "qwen2_tiny"),
                                            ::testing::Values(nn::Recompute::none, nn::Recompute::light, nn::Recompute::block),
                                            ::testing::Values(DType::f32, DType::bf16), ::testing::Bool()));

TEST(DryRun, CapacitiesDecideNotWhatABatchHolds) {
  auto model = load_model(fixture("models/qwen2_tiny"));
  objectives::CausalLm objective;
  const auto samples = eight_samples(150);
  const Step full = split(samples, {{4, 5, 6, 7}}), part = split(samples, {{0, 3}});
  train::EngineOptions options = options_for(full);
  options.eval_capacity = {10, 2, 10, 10};
  auto engine = make_engine(*model, objective, options);
  engine->step(part, 1, 1e-3f);
  EXPECT_EQ(engine->arena().high_water(), engine->arena().capacity());
  std::vector<objectives::Outcome> outcomes;
  engine->evaluate(split(samples, {{1}}), outcomes);
  EXPECT_EQ(engine->arena().high_water(), engine->arena().capacity());
}

// Plain SGD sees every factor that Adam would divide out again.
TEST(LossScale, LeavesTheGradientsBeforeTheUpdate) {
  const auto samples = eight_samples(150);
  const Step step = split(samples, {{0, 1, 2, 3}, {4, 5, 6, 7}});
  objectives::CausalLm objective;
  std::vector<float> moved[2];
  double losses[2], norms[2];
  for (int half = 0; half < 2; ++half) {
    formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
    auto model = models::declare(directory);
    train::EngineOptions options = options_for(step);
    options.optimizer.name = "sgd";
    options.max_grad_norm = 0;
    if (half) options.compute = DType::f16, options.masters = options.loss_scaling = true;
    train::allocate_model(*model, options, Place::host());
    models::load_weights(*model, directory);
    const auto before = floats(model->head_weight().stepped());
    auto engine = make_engine(*model, objective, options);
    const auto result = engine->step(step, 1, 0.5f);
    EXPECT_FALSE(result.skipped);
    losses[half] = result.loss, norms[half] = result.grad_norm;
    moved[half] = floats(model->head_weight().stepped());
    for (size_t i = 0; i < before.size(); ++i) moved[half][i] -= before[i];
  }
  EXPECT_NEAR(losses[1], losses[0], 2e-3 * losses[0]);
  EXPECT_NEAR(norms[1], norms[0], 1e-2 * norms[0]);
  EXPECT_LT(relative_error(moved[1], moved[0]), 2e-2);
}

TEST(LossScale, AnOverflowSkipsTheUpdateAndHalvesTheScale) {
  const Step step = split(eight_samples(150), {{0, 1}});
  objectives::CausalLm objective;
  formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
  auto model = models::declare(directory);
  train::EngineOptions options = options_for(step);
  options.compute = DType::f16, options.masters = options.loss_scaling = true;
  train::allocate_model(*model, options, Place::host());
  models::load_weights(*model, directory);
  auto engine = make_engine(*model, objective, options);
  engine->scaler().scale = 0x1p40;
  const auto before = floats(model->head_weight().stepped());
  int64_t number = 1;
  for (; engine->step(step, number, 1e-3f).skipped; ++number) {
    ASSERT_LT(number, 60);
    EXPECT_EQ(floats(model->head_weight().stepped()), before);
  }
  EXPECT_EQ(engine->scaler().scale, 0x1p40 / std::pow(2.0, static_cast<double>(number - 1)));
  EXPECT_EQ(engine->scaler().skipped, number - 1);
  EXPECT_NE(floats(model->head_weight().stepped()), before);
}

TEST(BatchView, RefusesABatchBeyondItsCapacityInAnyMeasure) {
  const MicroBatch batch = split(eight_samples(150), {{0, 2}}).micro_batches[0];  // 4 + 10 tokens, 3 + 9 labels
  objectives::BatchView view;
  EXPECT_NO_THROW(view.bind(batch, {14, 2, 12, 10}, 1));
  EXPECT_THROW(view.bind(batch, {13, 2, 12, 10}, 1), Error);
  EXPECT_THROW(view.bind(batch, {14, 1, 12, 10}, 1), Error);
  EXPECT_THROW(view.bind(batch, {14, 2, 11, 10}, 1), Error);
  EXPECT_THROW(view.bind(batch, {14, 2, 12, 9}, 1), Error) << "a sequence longer than the attention workspace";
}

// Refusals ----------------------------------------------------------------------------------------------------------------

TEST(Step, WithoutAnyLabelIsAnError) {
  auto model = load_model(fixture("models/llama2_tiny"));
  auto samples = eight_samples(150);
  const train::EngineOptions options = options_for(split(samples, {{1}}));
  for (float& w : samples[1].weights) w = 0;
  objectives::CausalLm objective;
  auto engine = make_engine(*model, objective, options);
  EXPECT_THROW(engine->step(split(samples, {{1}}), 1, 0.1f), Error);
}

TEST(Step, AMicroBatchWithoutLabelsAddsNothing) {
  auto model = load_model(fixture("models/llama2_tiny"));
  auto samples = eight_samples(150);
  for (float& w : samples[3].weights) w = 0;
  objectives::CausalLm objective;
  Gradients alone;
  for (const auto& parts : std::vector<std::vector<std::vector<int>>>{{{2}}, {{2}, {3}}, {{3}, {2}}}) {
    const Step step = split(samples, parts);
    auto engine = make_engine(*model, objective, options_for(step));
    engine->step(step, 1, 0.0f);
    for (const auto& p : model->parameters().all()) {
      if (parts.size() == 1) {
        alone[p->name] = floats(p->gradient);
      } else {
        EXPECT_LT(relative_error(floats(p->gradient), alone[p->name]), 1e-6) << p->name;
      }
    }
  }
}

TEST(Step, ANumberThatIsNotFiniteStopsItBeforeAnyUpdateAndIsNamed) {
  const Step step = split(eight_samples(150), {{1}});
  objectives::CausalLm objective;
  auto model = load_model(fixture("models/llama2_tiny"));
  model->parameters().find("model.layers.1.mlp.down_proj.weight")->weight.as<float>()[5] = NAN;
  Gradients before;
  for (const auto& p : model->parameters().all()) before[p->name] = floats(p->weight);
  auto engine = make_engine(*model, objective, options_for(step));
  try {
    engine->step(step, 17, 0.1f);
    FAIL() << "a NaN went through";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("step 17"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("token 3"), std::string::npos) << e.what();
  }
  for (const auto& p : model->parameters().all())
    if (p->name != "model.layers.1.mlp.down_proj.weight") {
      EXPECT_EQ(floats(p->weight), before[p->name]) << p->name;
    }
}

}  // namespace
}  // namespace attune
