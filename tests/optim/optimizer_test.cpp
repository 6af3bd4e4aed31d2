// A hundred steps of every optimizer and schedule as PyTorch and transformers make them
// (tools/reference/optimizer_fixtures.py), and what bf16 states and weights do to them.
#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include "optim/schedule.h"
#include "optim/matrix.h"
#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

// The numbers of the script's wave().
std::vector<float> wave(double a, size_t count) {
  std::vector<float> out;
  for (size_t i = 0; i < count; ++i) out.push_back(static_cast<float>(std::floor(std::sin(0.7 * a + 1.3 * static_cast<double>(i)) * 4096) / 4096));
  return out;
}

// "adamw amsgrad=true" → the name, and its arguments.
std::pair<std::string, std::map<std::string, std::string>> parse(const std::string& text) {
  const size_t space = text.find(' ');
  std::map<std::string, std::string> arguments;
  for (size_t at = space; at != std::string::npos && at < text.size();) {
    const size_t equals = text.find('=', at), comma = std::min(text.find(',', at + 1), text.size());
    arguments[text.substr(at + 1, equals - at - 1)] = text.substr(equals + 1, comma - equals - 1);
    at = comma;
  }
  return {text.substr(0, space), arguments};
}

optim::OptimizerOptions options_of(const std::string& text) {
  const auto [name, arguments] = parse(text);
  optim::OptimizerOptions o;
  o.name = name;
  o.beta1 = 0.9f, o.beta2 = 0.99f, o.eps = 1e-6f, o.weight_decay = 0.1f;
  for (const auto& [key, value] : arguments) {
    if (key == "amsgrad") o.amsgrad = true;
    else if (key == "momentum") o.momentum = std::stof(value);
    else if (key == "nesterov") o.nesterov = true;
    else if (key == "scale_parameter") o.scale_parameter = true;
    else if (key == "clip_threshold") o.clip_threshold = std::stof(value);
    else if (key == "decay_rate") o.decay_rate = std::stof(value);
    else ADD_FAILURE() << key;
  }
  return o;
}

// Two parameters, stepped with the script's gradients.
class Steps {
 public:
  Steps(const optim::OptimizerOptions& options, DType weights, bool masters) : optimizer_(optim::Optimizer::create(options)) {
    store.add("matrix", {5, 7});
    store.add("vector", {6});
    store.allocate_weights(Place::host(), weights);
    if (masters) store.allocate_masters(Place::host());
    for (size_t k = 0; k < 2; ++k) put(store.all()[k]->stepped(), wave(100 + static_cast<double>(k), count(k)));
    store.allocate_gradients(Place::host(), {store.all()[0].get(), store.all()[1].get()});
    optimizer_->allocate(Place::host(), store);
  }
  void step(int64_t t, float lr, float grad_scale = 1) {
    for (size_t k = 0; k < 2; ++k) {
      std::vector<float> g = wave(static_cast<double>(t) * 2 + static_cast<double>(k), count(k));
      for (float& x : g) x /= grad_scale;
      put(store.all()[k]->gradient, g);
      optimizer_->step(context_, *store.all()[k], t, lr, grad_scale);
    }
  }
  std::vector<float> values(size_t k) { return floats(store.all()[k]->stepped()); }
  optim::Optimizer& optimizer() { return *optimizer_; }
  nn::ParameterStore store;

 private:
  static void put(const Tensor& t, const std::vector<float>& x) { convert(x.data(), DType::f32, t.data, t.dtype, x.size()); }
  size_t count(size_t k) const { return static_cast<size_t>(store.all()[k]->count()); }
  Arena arena_{Place::host(), 1 << 20};
  ops::Context context_{ops::cpu_backend(), arena_};
  std::unique_ptr<optim::Optimizer> optimizer_;
};

TEST(Optimizer, FollowsPyTorchForAHundredSteps) {
  const Json reference = read_json(fixture("optim/optimizers.json"));
  const auto peak = reference["peak"].get<float>();
  for (const auto& [name, kept] : reference["runs"].items()) {
    Steps run(options_of(name), DType::f32, false), scaled(options_of(name), DType::f32, false);
    for (int64_t t = 1; t <= 100; ++t) {
      run.step(t, peak);
      scaled.step(t, peak, 0.25f);  // unscaling on the way changes nothing
      if (!kept.contains(std::to_string(t))) continue;
      const Json& at = kept[std::to_string(t)];
      EXPECT_LT(relative_error(run.values(0), at["matrix"].get<std::vector<float>>()), 1e-5) << name << " step " << t;
      EXPECT_LT(relative_error(run.values(1), at["vector"].get<std::vector<float>>()), 1e-5) << name << " step " << t;
      EXPECT_LT(relative_error(scaled.values(0), run.values(0)), 1e-5) << name << " step " << t;
    }
  }
}

TEST(Optimizer, MastersKeepTheNarrowWeightFresh) {
  for (DType narrow : {DType::bf16, DType::f16}) {
    Steps run(options_of("adamw"), narrow, true), wide(options_of("adamw"), DType::f32, false);
    for (int64_t t = 1; t <= 20; ++t) run.step(t, 0.02f), wide.step(t, 0.02f);
    EXPECT_EQ(run.values(0), wide.values(0));
    std::vector<float> rounded = run.values(0);
    for (float& x : rounded) x = narrow == DType::bf16 ? to_float(to_bf16(x)) : to_float(to_f16(x));
    EXPECT_EQ(floats(run.store.all()[0]->weight), rounded);
  }
}

// Without stochastic rounding a bf16 weight near 1 does not move at this rate: an update is a fortieth of its last digit.
TEST(Optimizer, Bf16WeightsMoveOnAverageAtSmallRates) {
  optim::OptimizerOptions o;
  o.name = "sgd";
  nn::ParameterStore store;
  store.add("w", {64, 1024});
  store.allocate_weights(Place::host(), DType::bf16);
  nn::Parameter& p = *store.all()[0];
  p.gradient_dtype = DType::bf16;
  store.allocate_gradients(Place::host(), {&p});
  for (int64_t i = 0; i < p.count(); ++i) p.weight.as<BFloat16>()[i] = to_bf16(1.0f), p.gradient.as<BFloat16>()[i] = to_bf16(1.0f);
  auto optimizer = optim::Optimizer::create(o);
  optimizer->allocate(Place::host(), store);
  Arena arena(Place::host(), 1 << 20);
  ops::Context context(ops::cpu_backend(), arena);
  for (int64_t t = 1; t <= 40; ++t) optimizer->step(context, p, t, 1e-4f, 1);
  double mean = 0;
  for (float x : floats(p.weight)) mean += x / static_cast<double>(p.count());
  EXPECT_NEAR(mean, 1 - 40 * 1e-4, 1e-4);
}

TEST(Optimizer, Bf16StatesStayNearFp32OnesAndRepeatThemselves) {
  for (const char* name : {"adamw", "adamw amsgrad=true", "lion", "sgd momentum=0.9"}) {
    optim::OptimizerOptions o = options_of(name);
    Steps exact(o, DType::f32, false);
    o.state_dtype = DType::bf16;
    Steps narrow(o, DType::f32, false), again(o, DType::f32, false);
    for (const auto& s : narrow.optimizer().states()) EXPECT_EQ(s.tensor.dtype, DType::bf16) << name;
    for (int64_t t = 1; t <= 50; ++t) exact.step(t, 0.002f), narrow.step(t, 0.002f), again.step(t, 0.002f);
    EXPECT_LT(relative_error(narrow.values(0), exact.values(0)), 0.02) << name;
    EXPECT_EQ(narrow.values(0), again.values(0)) << name;
    EXPECT_NE(narrow.values(0), exact.values(0)) << name;
  }
}

// Rules that look at one element at a time may step a matrix in slabs of rows, as its gradient becomes known.
class SlabCase : public ::testing::TestWithParam<std::tuple<const char*, DType, bool>> {};

TEST_P(SlabCase, SlabsOfRowsGiveTheWholeStepBitForBit) {
  const auto [name, dtype, masters] = GetParam();
  optim::OptimizerOptions o = options_of(name);
  o.state_dtype = dtype == DType::bf16 && !masters ? DType::bf16 : DType::f32;
  o.anchor_decay = 0.01f;
  Matrix whole(o, dtype, masters, 37, 256), slabs(o, dtype, masters, 37, 256);
  ASSERT_TRUE(slabs.optimizer->accepts_row_slabs(slabs.p())) << name;
  for (int64_t t = 1; t <= 5; ++t) {
    whole.draw_gradient(t), slabs.draw_gradient(t);
    whole.optimizer->step(whole.context, whole.p(), t, 0.01f, 0.5f);
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{20, 17}, {0, 1}, {1, 12}, {13, 7}})  // in any order
      slabs.optimizer->step_rows(slabs.context, slabs.p(), first, slabs.p().gradient.slice(first, rows), t, 0.01f, 0.5f);
  }
  EXPECT_EQ(bytes_of(whole.p().weight), bytes_of(slabs.p().weight));
  EXPECT_EQ(bytes_of(whole.p().stepped()), bytes_of(slabs.p().stepped()));
  const auto a = whole.optimizer->states(), b = slabs.optimizer->states();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(bytes_of(a[i].tensor), bytes_of(b[i].tensor)) << a[i].name;
}

INSTANTIATE_TEST_SUITE_P(Optimizer, SlabCase,
                         ::testing::Combine(::testing::Values("adamw", "adamw amsgrad=true", "adam", "sgd", "sgd momentum=0.9", "lion", "adamw_8bit",
                                                               "lion_8bit", "lomo"),
                                            ::testing::Values(DType::f32, DType::bf16), ::testing::Bool()));

TEST(Optimizer, RulesThatNeedTheWholeMatrixTakeNoSlabs) {
  for (const char* name : {"adafactor", "adalomo", "apollo", "galore", "galore_8bit", "muon"}) {
    Matrix run(options_of(name), DType::f32, false, 8, 16);
    EXPECT_FALSE(run.optimizer->accepts_row_slabs(run.p())) << name;
    EXPECT_THROW(run.optimizer->step_rows(run.context, run.p(), 0, run.p().gradient.slice(0, 2), 1, 0.1f, 1), Error) << name;
  }
  Matrix odd(options_of("adamw_8bit"), DType::f32, false, 50, 100);  // a row ends within a block
  EXPECT_FALSE(odd.optimizer->accepts_row_slabs(odd.p()));
}

TEST(Optimizer, L2ToTheBasePullsBackWhereWeightDecayPullsToZero) {
  for (const char* name : {"adamw", "sgd"}) {
    optim::OptimizerOptions o = options_of(name);
    o.weight_decay = 0;
    o.anchor_decay = 0.5f;
    Steps run(o, DType::f32, false);
    run.store.allocate_anchors(Place::host(), DType::f32);
    const auto base = run.values(0);
    // Away from the base, then on with gradients that are zero: what remains is the pull.
    for (int64_t i = 0; i < 35; ++i) run.store.all()[0]->weight.as<float>()[i] += 1;
    nn::Parameter& p = *run.store.all()[0];
    std::fill(p.gradient.as<float>(), p.gradient.as<float>() + 35, 0.0f);
    Arena arena(Place::host(), 1 << 20);
    ops::Context context(ops::cpu_backend(), arena);
    if (std::string(name) == "adamw") {  // decoupled: exact; adam's own step is 0
      run.optimizer().step(context, p, 1, 0.1f, 1);
      for (size_t i = 0; i < base.size(); ++i) EXPECT_NEAR(p.weight.as<float>()[i], base[i] + 0.95f, 1e-6);
    } else {
      run.optimizer().step(context, p, 1, 0.1f, 1);
      for (size_t i = 0; i < base.size(); ++i) EXPECT_NEAR(p.weight.as<float>()[i], base[i] + 0.95f, 1e-6);
    }
  }
}

TEST(Optimizer, GroupsSetRatesByTheFirstPatternThatIsFound) {
  nn::ParameterStore store;
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.11.mlp.up_proj.weight", "lm_head.weight"})
    store.add(name, {2, 2});
  optim::apply_groups({{"layers\\.0\\.", 0.1}, {"mlp", 0.5}, {"^lm_head", 0}}, store);
  std::vector<float> scales;
  for (const auto& p : store.all()) scales.push_back(p->lr_scale);
  EXPECT_EQ(scales, (std::vector<float>{1, 0.1f, 0.5f, 0}));
  EXPECT_THROW(optim::apply_groups({{"attention", 1}}, store), Error);
  EXPECT_THROW(optim::apply_groups({{"(", 1}}, store), Error);
}

TEST(Schedule, FollowsPyTorchAndTransformers) {
  const Json reference = read_json(fixture("optim/schedules.json"));
  for (const auto& [text, rates] : reference["rates"].items()) {
    const auto [name, arguments] = parse(text);
    optim::ScheduleOptions o;
    o.name = name;
    o.peak = reference["peak"].get<double>();
    o.warmup_steps = name == "step" ? 0 : reference["warmup"].get<int64_t>();
    o.total_steps = reference["total"].get<int64_t>();
    o.arguments = arguments;
    for (int64_t e = 1; e <= 4; ++e) o.epoch_ends.push_back(e * reference["epoch"].get<int64_t>());
    const optim::Schedule schedule(o);
    for (int64_t i = 0; i < o.total_steps; ++i)
      EXPECT_NEAR(schedule.learning_rate(i), rates[static_cast<size_t>(i)].get<double>(), 1e-12) << text << " step " << i;
  }
}

}  // namespace
}  // namespace attune
