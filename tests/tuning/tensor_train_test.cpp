// use_tensor_train: A and B follow from their cores, the cores' gradients are those of the loss, and only cores learn.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "models/merge.h"
#include "support/errors.h"
#include "support/fixtures.h"
#include "support/steps.h"
#include "support/workspace.h"
#include "tuning/circuit.h"

namespace attune {
namespace {

using namespace test;

train::EngineOptions settings(const Step& step, int64_t bond, bool weighted, DType compute = DType::f32) {
  train::EngineOptions o = options_for(step);
  o.compute = compute;
  o.masters = compute != DType::f32;
  o.max_grad_norm = 0;
  o.tuning.type = "lora";
  auto& lora = o.tuning.lora;
  lora.config.r = 4;
  lora.config.alpha = 8;
  lora.config.target_modules = {"all"};
  lora.tensor_train = {bond, weighted};
  return o;
}

class TensorTrain : public ::testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<models::Decoder> begun(const train::EngineOptions& o, const fs::path& checkpoint = {}) {
    auto model = std::make_unique<models::Decoder>(models::parse_config(directory.config(), "config.json"));
    train::allocate_model(*model, o, Place::host());
    models::load_weights(*model, directory);
    tuning::begin_lora(o.tuning.lora, *model, directory, checkpoint);
    return model;
  }
  // As after some training: nothing is 0, and the weights of columns differ.
  static void scatter(models::Decoder& model) {
    for (const auto& p : model.parameters().all()) {
      if (p->name.find(".tt_") == std::string::npos) continue;
      auto values = floats(p->stepped());
      for (size_t i = 0; i < values.size(); ++i) values[i] += 0.1f * std::sin(static_cast<float>(i * 7 + p->name.size()));
      models::store(*p, values);
    }
    compose(model);
  }
  static void compose(models::Decoder& model) {
    Arena arena(Place::host(), 1 << 24);
    ops::Context context(ops::cpu_backend(), arena);
    tuning::TensorTrain(model).compose(context);
  }
  static nn::Parameter& find(models::Decoder& model, const std::string& name) {
    return *model.parameters().find(formats::kAdapterPrefix + name);
  }
  const Step whole = split(eight_samples(150), {{0, 1, 2, 3, 4, 5, 6, 7}});
  formats::ModelDirectory directory{fixture("models/qwen2_tiny")};
  objectives::CausalLm objective;
};

INSTANTIATE_TEST_SUITE_P(Variants, TensorTrain, ::testing::Bool(), [](const auto& info) { return info.param ? "weighted" : "plain"; });

TEST_P(TensorTrain, BeginsAsTheBaseWithTheVarianceOfLora) {
  const auto model = begun(settings(whole, 3, GetParam()));
  double squares = 0, n = 0;
  for (const auto& p : model->parameters().all()) {
    if (p->name.ends_with(".lora_B.weight")) {
      EXPECT_EQ(floats(p->weight), std::vector<float>(static_cast<size_t>(p->count()))) << p->name;
    }
    if (!p->name.ends_with(".lora_A.weight")) continue;
    for (float x : floats(p->weight)) squares += static_cast<double>(x) * x * 3 * static_cast<double>(p->shape[1]), ++n;
  }
  EXPECT_NEAR(squares / n, 1, 0.25);
  EXPECT_NE(floats(find(*model, "model.layers.0.mlp.up_proj.lora_A.weight").weight), floats(find(*model, "model.layers.0.mlp.gate_proj.lora_A.weight").weight));
}

// The definition, written out. Rank 4 is 2·2; `columns` are split as the header says.
std::vector<float> by_definition(nn::Parameter& first, nn::Parameter& second, int64_t rank, int64_t columns) {
  int64_t j1 = 1;
  for (int64_t d = 1; d * d <= columns; ++d)
    if (columns % d == 0) j1 = d;
  const int64_t j2 = columns / j1, bond = first.shape[1];
  const auto g1 = floats(first.stepped()), g2 = floats(second.stepped());
  std::vector<float> out;
  for (int64_t k = 0; k < rank; ++k)
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t b = 0; b < bond; ++b)
        sum += static_cast<double>(g1[static_cast<size_t>((k / 2 * j1 + j / j2) * bond + b)]) *
               g2[static_cast<size_t>(b * 2 * j2 + k % 2 * j2 + j % j2)];
      out.push_back(static_cast<float>(sum));
    }
  return out;
}

// Two qubits as 4×4 matrices: |q1 q0⟩, RY on each, CNOT 0→1, CNOT 1→0, twice.
std::array<double, 4> weights_by_matrices(const std::vector<float>& angles) {
  std::array<double, 4> psi{1, 0, 0, 0};
  for (size_t layer = 0; layer < 2; ++layer) {
    double ry[2][2][2];
    for (size_t q = 0; q < 2; ++q) {
      const double c = std::cos(angles[layer * 2 + q] / 2.0), s = std::sin(angles[layer * 2 + q] / 2.0);
      ry[q][0][0] = ry[q][1][1] = c, ry[q][0][1] = -s, ry[q][1][0] = s;
    }
    std::array<double, 4> turned{};
    for (size_t to = 0; to < 4; ++to)
      for (size_t from = 0; from < 4; ++from) turned[to] += ry[1][to >> 1][from >> 1] * ry[0][to & 1][from & 1] * psi[from];
    const std::array<double, 4> first{turned[0], turned[3], turned[2], turned[1]};
    psi = {first[0], first[1], first[3], first[2]};
  }
  for (double& x : psi) x = 4 * x * x;
  return psi;
}

TEST_P(TensorTrain, AAndBAreTheSumsThatTheirCoresDefine) {
  const auto model = begun(settings(whole, 3, GetParam()));
  scatter(*model);
  for (const std::string module : {"model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"}) {
    const nn::Parameter &a = find(*model, module + ".lora_A.weight"), &b = find(*model, module + ".lora_B.weight");
    EXPECT_LT(relative_error(floats(a.weight), by_definition(find(*model, module + ".tt_A.0"), find(*model, module + ".tt_A.1"), 4, a.shape[1])), 1e-5);
    const auto turned = by_definition(find(*model, module + ".tt_B.0"), find(*model, module + ".tt_B.1"), 4, b.shape[0]);
    std::array<double, 4> w{1, 1, 1, 1};
    if (GetParam()) w = weights_by_matrices(floats(find(*model, module + ".tt_angles").weight));
    std::vector<float> expected;
    for (int64_t o = 0; o < b.shape[0]; ++o)
      for (int64_t k = 0; k < 4; ++k)
        expected.push_back(turned[static_cast<size_t>(k * b.shape[0] + o)] * static_cast<float>(w[static_cast<size_t>(k)]));
    EXPECT_LT(relative_error(floats(b.weight), expected), 1e-5);
  }
}

TEST_P(TensorTrain, GradientsOfCoresAreThoseOfTheLoss) {
  const auto o = settings(whole, 3, GetParam());
  const auto model = begun(o);
  scatter(*model);
  auto engine = make_engine(*model, objective, o);
  engine->step(whole, 1, 0.0f);
  std::map<nn::Parameter*, std::vector<float>> gradients;
  for (const char* core : {"tt_A.0", "tt_A.1", "tt_B.0", "tt_B.1", "tt_angles"})
    for (const char* module : {"model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"})
      if (nn::Parameter* p = model->parameters().find(fmt::format("{}{}.{}", formats::kAdapterPrefix, module, core))) gradients[p] = floats(p->gradient);
  ASSERT_EQ(gradients.size(), GetParam() ? 10u : 8u);
  for (const auto& [p, g] : gradients) {
    double length = 0;
    for (float x : g) length += static_cast<double>(x) * x;
    length = std::sqrt(length);
    ASSERT_GT(length, 1e-4) << p->name;
    const auto values = floats(p->weight);
    // Along the gradient, and along one of its halves: together they would not fit a wrong one.
    for (size_t every : {1u, 2u}) {
      double slope = 0;
      std::vector<float> way(g.size());
      for (size_t i = 0; i < g.size(); i += every) way[i] = g[i] / static_cast<float>(length), slope += static_cast<double>(g[i]) * way[i];
      const auto loss_at = [&](float h) {
        auto moved = values;
        for (size_t i = 0; i < moved.size(); ++i) moved[i] += h * way[i];
        models::store(*p, moved);
        compose(*model);
        return engine->step(whole, 1, 0.0f).loss;
      };
      const float h = 0.002f;
      const double measured = (loss_at(h) - loss_at(-h)) / (2 * static_cast<double>(h));
      EXPECT_NEAR(measured, slope, 0.02 * length + 2e-4) << p->name;
    }
    models::store(*p, values);
  }
}

TEST_P(TensorTrain, OnlyCoresLearnAndTheyAreFew) {
  const auto o = settings(whole, 3, GetParam());
  const auto model = begun(o);
  int64_t cores = 0, angles = 0, others = 0;
  for (const auto& p : model->parameters().all()) {
    if (p->name.ends_with("tt_angles")) angles += p->count();
    else if (p->name.find(".tt_") != std::string::npos) cores += p->count();
    else others += p->learns() ? p->count() : 0;
  }
  // Of q_proj [64, 64] and rank 4: 2·8·3 and 3·2·8 numbers for A, and for B.
  EXPECT_EQ(find(*model, "model.layers.0.self_attn.q_proj.tt_A.0").shape, (std::vector<int64_t>{16, 3}));
  EXPECT_EQ(find(*model, "model.layers.0.self_attn.q_proj.tt_A.1").shape, (std::vector<int64_t>{3, 16}));
  EXPECT_EQ(others, 0);
  EXPECT_EQ(angles, GetParam() ? 14 * 4 : 0);
  EXPECT_EQ(model->parameters().trainable_count(), cores + angles);
  auto engine = make_engine(*model, objective, o);
  const uint64_t before = tuning::frozen_hash(*model);
  const double first = engine->step(whole, 1, 0.01f).loss;
  double last = 0;
  for (int64_t s = 2; s <= 20; ++s) last = engine->step(whole, s, 0.01f).loss;
  EXPECT_LT(last, first - 0.1);
  EXPECT_EQ(tuning::frozen_hash(*model), before);
  for (const auto& state : engine->optimizer().states()) EXPECT_NE(state.name.find(".tt_"), std::string::npos) << state.name;
  if (GetParam()) {
    const auto theta = floats(find(*model, "model.layers.0.self_attn.q_proj.tt_angles").weight);
    EXPECT_NE(theta, floats(find(*begun(o), "model.layers.0.self_attn.q_proj.tt_angles").weight));
  }
}

TEST_P(TensorTrain, AccumulationAndUpdatesInsideBackwardGiveTheSameUpdate) {
  const auto weights_after = [&](const Step& step, bool inside, nn::Recompute recompute) {
    auto o = settings(step, 3, GetParam());
    o.optimizer.name = "sgd";
    o.optimizer_in_backward = inside;
    o.recompute = recompute;
    const auto model = begun(o);
    scatter(*model);
    auto engine = make_engine(*model, objective, o);
    for (int64_t s = 1; s <= 3; ++s) engine->step(step, s, 0.1f);
    std::map<std::string, std::vector<float>> out;
    for (const auto& p : model->parameters().all())
      if (p->added) out[p->name] = floats(p->weight);
    return out;
  };
  const auto plain = weights_after(whole, false, nn::Recompute::light);
  EXPECT_EQ(weights_after(whole, true, nn::Recompute::light), plain);
  EXPECT_EQ(weights_after(whole, true, nn::Recompute::block), plain);
  for (const auto& [name, values] : weights_after(split(eight_samples(150), {{3, 1}, {0, 7, 2}, {6, 5, 4}}), false, nn::Recompute::light))
    EXPECT_LT(relative_error(values, plain.at(name)), 1e-4) << name;
}

TEST_P(TensorTrain, InBf16AAndBAreRoundedOnceFromTheMastersOfTheCores) {
  const auto o = settings(whole, 2, GetParam(), DType::bf16);
  const auto model = begun(o);
  scatter(*model);
  auto engine = make_engine(*model, objective, o);
  engine->step(whole, 1, 1e-3f);
  const std::string module = "model.layers.0.mlp.gate_proj";
  const nn::Parameter& a = find(*model, module + ".lora_A.weight");
  EXPECT_FALSE(a.master.defined());
  auto expected = by_definition(find(*model, module + ".tt_A.0"), find(*model, module + ".tt_A.1"), 4, a.shape[1]);
  EXPECT_LT(relative_error(floats(a.weight), expected), 1.0 / 250);
}

TEST_P(TensorTrain, WhatIsSavedIsPlainLoraAndGoesOnBitForBit) {
  const auto o = settings(whole, 3, GetParam());
  const auto model = begun(o);
  auto engine = make_engine(*model, objective, o);
  for (int64_t s = 1; s <= 5; ++s) engine->step(whole, s, 3e-3f);
  Workspace w;
  tuning::save_adapter(w.path(), o.tuning.lora, *model, DType::f32);
  EXPECT_EQ(tuning::read_tensor_train(w.path()).bond, 3);
  EXPECT_EQ(tuning::read_tensor_train(w.path()).weighted, GetParam());
  // As a tool reads it that knows nothing of cores.
  auto plain = models::declare_adapted(directory, {w.path()});
  plain->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_adapted(*plain, directory, {w.path()});
  size_t compared = 0;
  for (const auto& p : plain->parameters().all())
    if (p->added) {
      EXPECT_EQ(floats(p->weight), floats(model->parameters().find(p->name)->weight)) << p->name;
      ++compared;
    }
  EXPECT_EQ(compared, 28u);
  const auto again = begun(o, w.path());
  for (const auto& p : model->parameters().all()) EXPECT_EQ(floats(p->weight), floats(again->parameters().find(p->name)->weight)) << p->name;
  // Another adapter's cores.
  scatter(*model);
  tuning::save_cores(w.path(), o.tuning.lora.tensor_train, *model);
  EXPECT_NE(error_of([&] { begun(o, w.path()); }).find("does not follow"), std::string::npos);
  auto other = o;
  other.tuning.lora.tensor_train.bond = 2;
  EXPECT_NE(error_of([&] { begun(other, w.path()); }).find("expected ["), std::string::npos);
  fs::remove(w / tuning::kCoresFile);
  EXPECT_NE(error_of([&] { begun(o, w.path()); }).find(tuning::kCoresFile), std::string::npos);
}

TEST_P(TensorTrain, TakesLessMemoryThanLora) {
  const auto memory = [&](int64_t bond) {
    auto o = settings(whole, bond, bond > 0 && GetParam());
    auto model = std::make_unique<models::Decoder>(models::parse_config(directory.config(), "config.json"));
    train::allocate_model(*model, o, Place::dry());
    train::Engine engine(*model, objective, o, Place::dry(), 0);
    engine.dry_run();
    return engine.memory();
  };
  const auto train = memory(1), lora = memory(0);
  EXPECT_LT(train.gradients, lora.gradients / 2);
  EXPECT_LT(train.optimizer, lora.optimizer / 2);
}

TEST(TensorTrainRefuses, TablesAndDamagedMetadata) {
  formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
  auto o = settings(split(eight_samples(150), {{0}}), 3, false);
  o.tuning.lora.config.target_modules = {"q_proj", "lm_head"};
  auto config = models::parse_config(directory.config(), "config.json");
  if (tuning::unties(o.tuning.lora, config)) models::untie(config);
  models::Decoder model(config);
  EXPECT_NE(error_of([&] { tuning::apply(o.tuning, model); }).find("lm_head"), std::string::npos);
  Workspace w;
  for (const char* bond : {"", "0", "-1", "x", "99999999", "4 "}) {
    formats::write_safetensors(w / tuning::kCoresFile, {}, {{"format", "pt"}, {"tt_bond", bond}, {"tt_weighted", "true"}});
    EXPECT_NE(error_of([&] { tuning::read_tensor_train(w.path()); }).find("tt_bond"), std::string::npos) << bond;
  }
}

TEST(Circuit, TangentsAreThoseOfTheAmplitudesAndProbabilitiesAreOne) {
  for (int64_t values : {1, 2, 5, 16}) {
    const auto circuit = tuning::Circuit::over(values);
    ASSERT_GE(circuit.states(), values);
    const auto n = static_cast<size_t>(circuit.states());
    std::vector<float> angles(static_cast<size_t>(circuit.angles()));
    for (size_t i = 0; i < angles.size(); ++i) angles[i] = static_cast<float>(tuning::Circuit::even_angle(static_cast<int64_t>(i), circuit.qubits));
    std::vector<double> psi(n), up(n), down(n), tangent(n);
    circuit.run(angles.data(), psi.data());
    for (double x : psi) EXPECT_NEAR(static_cast<double>(n) * x * x, 1, 1e-6);
    for (size_t i = 0; i < angles.size(); ++i) angles[i] = 0.4f * static_cast<float>(i + 1);
    circuit.run(angles.data(), psi.data());
    double all = 0;
    for (double x : psi) all += x * x;
    EXPECT_NEAR(all, 1, 1e-12);
    for (size_t i = 0; i < angles.size(); ++i) {
      auto moved = angles;
      circuit.run(angles.data(), tangent.data(), static_cast<int64_t>(i));
      moved[i] = angles[i] + 1.0f / 256;
      circuit.run(moved.data(), up.data());
      moved[i] = angles[i] - 1.0f / 256;
      circuit.run(moved.data(), down.data());
      for (size_t k = 0; k < n; ++k) EXPECT_NEAR((up[k] - down[k]) * 128, tangent[k], 1e-5);
    }
  }
}

}  // namespace
}  // namespace attune
