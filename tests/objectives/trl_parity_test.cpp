// Pairs, judged answers and rewards against TRL: values, gradients and 20 updates (fixtures written by
// tools/reference/preference_fixtures.py).
#include <fmt/format.h>

#include "models/families/family.h"
#include "objectives/kto.h"
#include "objectives/preference.h"
#include "objectives/reward.h"
#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;
using objectives::Preference;

const Json& fixture_json(const char* name) {
  static std::map<std::string, Json> files;
  if (!files.count(name)) files[name] = read_json(fixture("preferences") / name);
  return files[name];
}

void add_answer(MicroBatch& b, int64_t sample, const Json& prompt, const Json& answer, int32_t group) {
  auto ids = prompt.get<std::vector<int32_t>>();
  std::vector<float> weights(ids.size(), 0.0f);
  for (int32_t id : answer) ids.push_back(id), weights.push_back(1.0f);
  b.add_sequence(sample, ids, weights, group);
}

MicroBatch batch_of_pairs(const Json& pairs, size_t begin, size_t end) {
  MicroBatch b;
  for (size_t i = begin; i < end; ++i)
    for (const char* side : {"chosen", "rejected"})
      add_answer(b, static_cast<int64_t>(2 * i + (side[0] == 'r')), pairs[i]["prompt"], pairs[i][side], static_cast<int32_t>(i - begin));
  return b;
}

// `pairs` in micro-batches of `size`.
Step step_of_pairs(const Json& pairs, size_t size) {
  std::vector<MicroBatch> batches;
  for (size_t i = 0; i < pairs.size(); i += size) batches.push_back(batch_of_pairs(pairs, i, std::min(pairs.size(), i + size)));
  return step_of(std::move(batches));
}

// Prompts with the answer of the next row: TRL's estimate of the KL.
Step step_of_judged(const Json& rows) {
  MicroBatch own, probes;
  for (size_t i = 0; i < rows.size(); ++i) {
    add_answer(own, static_cast<int64_t>(2 * i), rows[i]["prompt"], rows[i]["answer"], static_cast<int32_t>(i));
    own.side.back().desirable = rows[i]["good"].get<bool>() ? 1.0f : 0.0f;
    add_answer(probes, static_cast<int64_t>(2 * i + 1), rows[i]["prompt"], rows[(i + 1) % rows.size()]["answer"], static_cast<int32_t>(i));
  }
  Step s = step_of({own});
  s.probes.push_back(probes);
  return s;
}

std::unique_ptr<Preference> objective_of(const std::string& name, double beta, double smoothing) {
  objectives::PreferenceOptions o;
  o.beta = name == "simpo" ? 2.0 : beta;
  o.label_smoothing = smoothing;
  if (name == "mixture")
    return std::make_unique<Preference>(std::vector<Preference::Term>{{objectives::find_preference_loss("sigmoid"), 0.8},
                                                                      {objectives::find_preference_loss("bco_pair"), 0.2}}, o);
  return std::make_unique<Preference>(std::vector<Preference::Term>{{objectives::find_preference_loss(name), 1.0}}, o);
}

bool free_of_reference(const std::string& name) { return name == "orpo" || name == "simpo" || name == "cpo"; }

std::unique_ptr<models::Decoder> scorer() {
  formats::ModelDirectory directory(fixture("models/qwen2_tiny"));
  auto config = models::parse_config(directory.config(), "config.json");
  models::score_sequences(config, 1);
  auto model = std::make_unique<models::Decoder>(config);
  model->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(*model, directory);
  const auto score = fixture_json("pairs.json")["rm"]["score"].get<std::vector<float>>();
  std::copy(score.begin(), score.end(), model->head_weight().weight.as<float>());
  return model;
}

std::unique_ptr<train::Engine> engine_for(models::Decoder& model, const objectives::Objective& objective, const Step& step,
                                          nn::Recompute recompute = nn::Recompute::light, float clip = 1) {
  train::EngineOptions options;
  options.capacity = capacity_of(step);
  for (const MicroBatch& b : step.probes) {
    const BatchCapacity c = capacity_of(step_of({b}));
    options.capacity.tokens = std::max(options.capacity.tokens, c.tokens);
    options.capacity.label_rows = std::max(options.capacity.label_rows, c.label_rows);
    options.capacity.max_seqlen = std::max(options.capacity.max_seqlen, c.max_seqlen);
  }
  options.micro_batches = static_cast<int64_t>(step.micro_batches.size());
  options.recompute = recompute;
  options.max_grad_norm = clip;
  return make_engine(model, objective, options);
}

void expect_gradients(const models::Decoder& model, const Json& expected) {
  double scale = 0;
  for (const auto& [name, norm] : expected["norms"].items()) scale = std::max(scale, norm.get<double>());
  for (const auto& [name, norm] : expected["norms"].items()) {
    const auto* p = model.parameters().find(name);
    ASSERT_NE(p, nullptr) << name;
    double squared = 0;
    for (float g : floats(p->gradient)) squared += static_cast<double>(g) * g;
    EXPECT_NEAR(std::sqrt(squared), norm.get<double>(), 1e-4 * scale) << name;
  }
  for (const auto& [name, values] : expected["whole"].items())
    EXPECT_LT(relative_error(floats(model.parameters().find(name)->gradient), values.get<std::vector<float>>()), 1e-3) << name;
}

void expect_measures(const objectives::Measures& measures, const Json& expected) {
  int found = 0;
  for (const auto& m : measures.entries()) {
    if (!expected.contains(m.name) || m.name == "nll_loss") continue;
    EXPECT_NEAR(m.mean(), expected[m.name].get<double>(), 1e-4 * (1 + std::abs(expected[m.name].get<double>()))) << m.name;
    ++found;
  }
  EXPECT_GE(found, 3);
}

class TrlLoss : public ::testing::TestWithParam<const char*> {};

// One micro-batch or several: the same loss and the same gradients.
TEST_P(TrlLoss, ValueAndGradientsAreTheSameHoweverTheStepIsSplit) {
  const std::string name = GetParam();
  const Json& f = fixture_json("pairs.json");
  const Json& expected = f["losses"][name];
  const auto objective = objective_of(name, f["beta"].get<double>(), expected["label_smoothing"].get<double>());
  for (size_t size : {size_t{4}, size_t{2}, size_t{1}}) {
    Step step = step_of_pairs(free_of_reference(name) ? f["even_pairs"] : f["pairs"], size);
    if (!free_of_reference(name))
      for (MicroBatch& b : step.micro_batches)
        for (size_t s = 0; s < b.side.size(); ++s) {
          const auto sample = static_cast<size_t>(b.sequence_samples[s]);
          b.side[s].reference_logp = f[sample % 2 == 0 ? "reference_chosen" : "reference_rejected"][sample / 2].get<float>();
        }
    auto model = load_model(fixture("models/qwen2_tiny"));
    auto engine = engine_for(*model, *objective, step);
    const train::StepResult result = engine->step(step, 1, 0.0f);
    EXPECT_NEAR(result.loss, expected["loss"].get<double>(), 1e-4) << size;
    expect_gradients(*model, expected);
    expect_measures(engine->measures(), expected["metrics"]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrlLoss, ::testing::Values("sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
                                                         "apo_zero", "apo_down", "discopop", "sigmoid_norm", "mixture", "orpo", "simpo", "cpo"));

TEST(TrlKto, ValueAndGradientsAreTheSame) {
  const Json& f = fixture_json("pairs.json")["kto"];
  Step step = step_of_judged(f["rows"]);
  for (size_t i = 0; i < f["rows"].size(); ++i) {
    step.micro_batches[0].side[i].reference_logp = f["reference"][i].get<float>();
    step.probes[0].side[i].reference_logp = f["reference_probes"][i].get<float>();
  }
  const objectives::Kto objective({0.1, 1.0, f["bad_weight"].get<double>()});
  auto model = load_model(fixture("models/qwen2_tiny"));
  auto engine = engine_for(*model, objective, step);
  EXPECT_NEAR(engine->step(step, 1, 0.0f).loss, f["loss"].get<double>(), 1e-4);
  expect_gradients(*model, f);
  expect_measures(engine->measures(), f["metrics"]);
  EXPECT_GT(f["metrics"]["kl"].get<double>(), 0.1);  // or the estimate would not be tested
}

// Losses that TRL does not have (bco as here) or names otherwise: by hand, in double precision, however the step is split.
TEST(JudgedLosses, FollowTheirFormulae) {
  const Json& f = fixture_json("pairs.json")["kto"];
  const double beta = 0.1;
  for (const auto loss : {objectives::KtoOptions::Loss::bco, objectives::KtoOptions::Loss::apo_zero}) {
    const objectives::Kto objective({beta, 1.0, 1.25, loss});
    auto model = load_model(fixture("models/qwen2_tiny"));
    Step whole = step_of_judged(f["rows"]);
    whole.probes.clear();
    auto& side = whole.micro_batches[0].side;
    for (size_t i = 0; i < side.size(); ++i) side[i].reference_logp = f["reference"][i].get<float>();
    auto engine = engine_for(*model, objective, whole);
    std::vector<objectives::SequenceLogp> logps;
    engine->measure_sequences(whole.micro_batches[0], true, logps);
    double good = 0, bad = 0, goods = 0, bads = 0, expected = 0;
    for (const auto& s : logps) {
      const double r = beta * (s.logp - s.side.reference_logp);
      if (s.side.desirable > 0) good += r, ++goods;
      else bad += r, ++bads;
    }
    const double delta = (good / goods + bad / bads) / 2;
    for (const auto& s : logps) {
      const double r = beta * (s.logp - s.side.reference_logp), sign = s.side.desirable > 0 ? 1 : -1, weight = s.side.desirable > 0 ? 1 : 1.25;
      const bool bco = loss == objectives::KtoOptions::Loss::bco;
      expected += weight * (bco ? std::log1p(std::exp(-sign * (r - delta))) : 1 - 1 / (1 + std::exp(-sign * r))) / static_cast<double>(logps.size());
    }
    EXPECT_NEAR(engine->step(whole, 1, 0.0f).loss, expected, 1e-6);
    const auto gradient = floats(model->parameters().find("model.norm.weight")->gradient);
    Step parts = whole;
    const MicroBatch all = parts.micro_batches[0];
    parts.micro_batches.clear();
    for (size_t half = 0; half < 2; ++half) {
      MicroBatch b;
      for (size_t i = 2 * half; i < 2 * half + 2; ++i) {
        add_answer(b, static_cast<int64_t>(2 * i), f["rows"][i]["prompt"], f["rows"][i]["answer"], static_cast<int32_t>(i - 2 * half));
        b.side.back() = all.side[i];
      }
      parts.micro_batches.push_back(b);
    }
    auto again = load_model(fixture("models/qwen2_tiny"));
    auto split = engine_for(*again, objective, parts);
    EXPECT_NEAR(split->step(parts, 1, 0.0f).loss, expected, 1e-6);
    EXPECT_LT(relative_error(floats(again->parameters().find("model.norm.weight")->gradient), gradient), 1e-4);
  }
}

TEST(TrlReward, ValueAndGradientsAreTheSame) {
  const Json& f = fixture_json("pairs.json")["rm"];
  Step step = step_of_pairs(fixture_json("pairs.json")["pairs"], 2);
  for (MicroBatch& b : step.micro_batches)
    for (size_t s = 0; s < b.side.size(); ++s) b.side[s].margin = f["margins"][static_cast<size_t>(b.sequence_samples[s] / 2)].get<float>();
  const objectives::Reward objective(f["center"].get<double>());
  auto model = scorer();
  auto engine = engine_for(*model, objective, step);
  EXPECT_NEAR(engine->step(step, 1, 0.0f).loss, f["loss"].get<double>(), 1e-4);
  expect_gradients(*model, f);
  const auto& m = engine->measures().entries();
  EXPECT_NEAR(m[2].mean(), f["metrics"]["accuracy"].get<double>(), 1e-6);
  EXPECT_NEAR(m[3].mean(), f["metrics"]["margin"].get<double>(), 1e-4);
}

// A row's weight multiplies its share of the loss and of the gradient, whatever the loss does with log-probabilities.
TEST(RowWeight, ScalesTheLossOfThePair) {
  const Json& f = fixture_json("pairs.json");
  Preference ipo({{objectives::find_preference_loss("ipo"), 1.0}}, {});
  objectives::Reward reward(0.01);
  objectives::Kto bco({0.1, 1, 1, objectives::KtoOptions::Loss::apo_zero});
  for (const objectives::Objective* objective : {static_cast<const objectives::Objective*>(&ipo), static_cast<const objectives::Objective*>(&reward),
                                                 static_cast<const objectives::Objective*>(&bco)}) {
    const auto run = [&](std::vector<float> weights) {
      Step step = objective == &bco ? step_of_judged(f["kto"]["rows"]) : step_of_pairs(f["pairs"], 4);
      step.probes.clear();
      auto& side = step.micro_batches[0].side;
      const size_t of_row = side.size() / 4;
      for (size_t i = 0; i < side.size(); ++i) side[i].weight = weights[i / of_row], side[i].reference_logp = -20 - static_cast<float>(i);
      auto model = objective == &reward ? scorer() : load_model(fixture("models/qwen2_tiny"));
      auto engine = engine_for(*model, *objective, step, nn::Recompute::light, 0);
      std::vector<float> out{static_cast<float>(engine->step(step, 1, 0.0f).loss)};
      for (float g : floats(model->parameters().find("model.norm.weight")->gradient)) out.push_back(g);
      return out;
    };
    std::vector<float> sum;
    const std::vector<float> weights{2, 0.5f, 1, 3};
    for (size_t i = 0; i < 4; ++i) {
      std::vector<float> one(4, 0.0f);
      one[i] = 1;
      const auto part = run(one);
      sum.resize(part.size());
      for (size_t j = 0; j < part.size(); ++j) sum[j] += weights[i] * part[j];
    }
    const auto all = run(weights);
    EXPECT_NEAR(all[0], sum[0], 1e-4 * std::abs(sum[0]));
    EXPECT_LT(relative_error(all, sum), 1e-4);
  }
}

class TrlCurve : public ::testing::TestWithParam<const char*> {};

// The reference is the model as it begins, measured by the engine itself.
TEST_P(TrlCurve, TwentyUpdatesFollow) {
  const std::string name = GetParam();
  const Json& f = fixture_json("curves.json");
  const Json& batches = f[name == "kto" ? "judged" : free_of_reference(name) ? "even_batches" : "batches"];
  std::vector<Step> steps;
  Step largest;
  for (const Json& rows : batches) {
    steps.push_back(name == "kto" ? step_of_judged(rows) : step_of_pairs(rows, rows.size()));
    largest.micro_batches.push_back(steps.back().micro_batches[0]);
    for (const MicroBatch& b : steps.back().probes) largest.probes.push_back(b);
  }
  std::unique_ptr<objectives::Objective> objective;
  if (name == "rm") objective = std::make_unique<objectives::Reward>();
  else if (name == "kto") objective = std::make_unique<objectives::Kto>(objectives::KtoOptions{0.1, 1.0, 1.25});
  else objective = objective_of(name, f["beta"].get<double>(), 0);
  auto model = name == "rm" ? scorer() : load_model(fixture("models/qwen2_tiny"));
  train::EngineOptions options;
  options.capacity = capacity_of(largest);
  for (const MicroBatch& b : largest.probes) {
    options.capacity.tokens = std::max(options.capacity.tokens, b.token_count());
    options.capacity.label_rows = std::max(options.capacity.label_rows, static_cast<int64_t>(b.label_rows.size()));
    for (size_t i = 0; i + 1 < b.cu_seqlens.size(); ++i)
      options.capacity.max_seqlen = std::max<int64_t>(options.capacity.max_seqlen, b.cu_seqlens[i + 1] - b.cu_seqlens[i]);
  }
  auto engine = make_engine(*model, *objective, options);
  std::vector<objectives::SequenceLogp> logps;
  if (name != "rm")
    for (Step& s : steps)
      for (auto* group : {&s.micro_batches, &s.probes})
        for (MicroBatch& b : *group) {
          engine->measure_sequences(b, true, logps);
          for (size_t i = 0; i < logps.size(); ++i) b.side[i].reference_logp = static_cast<float>(logps[i].logp);
        }
  const auto& expected = f["losses"][name];
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto result = engine->step(steps[i % steps.size()], static_cast<int64_t>(i) + 1, f["learning_rate"].get<float>());
    EXPECT_NEAR(result.loss, expected[i].get<double>(), 1e-4 * std::max(1.0, expected[i].get<double>())) << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrlCurve, ::testing::Values("sigmoid", "ipo", "orpo", "simpo", "kto", "rm"));

}  // namespace
}  // namespace attune
