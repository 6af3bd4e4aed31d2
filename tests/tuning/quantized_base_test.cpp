// A base in 4 or 8 bits below an adapter: it computes as its dequantised weights do, and what must stay dense stays dense.
#include <gtest/gtest.h>

#include <cstring>

#include "models/families/family.h"
#include "models/merge.h"
#include "models/quantized_base.h"
#include "ops/dequantize.h"
#include "ops/quantize.h"
#include "support/errors.h"
#include "support/fixtures.h"
#include "support/steps.h"
#include "support/workspace.h"

namespace attune {
namespace {

using namespace test;

const std::vector<Quantization> kWays{{QuantType::nf4, true}, {QuantType::nf4, false}, {QuantType::fp4, true}, {QuantType::int8, false}};

struct Tuned {
  std::unique_ptr<formats::ModelDirectory> directory;
  std::unique_ptr<models::Decoder> model;
  train::EngineOptions options;
};

Tuned begin(const std::string& base, const Quantization& how, DType compute = DType::f32, const tuning::LoraOptions& lora = {}) {
  Tuned r;
  r.directory = std::make_unique<formats::ModelDirectory>(fixture(base));
  auto config = models::parse_config(r.directory->config(), "config.json");
  r.options.tuning.type = "lora";
  r.options.tuning.lora = lora;
  if (lora.config.target_modules.empty()) r.options.tuning.lora.config.target_modules = {"all"};
  r.options.tuning.quantization = how;
  r.options.compute = compute;
  r.options.masters = compute != DType::f32;
  if (tuning::unties(r.options.tuning.lora, config)) models::untie(config);
  r.model = std::make_unique<models::Decoder>(config);
  train::allocate_model(*r.model, r.options, Place::host());
  models::load_weights(*r.model, *r.directory);
  tuning::begin_lora(r.options.tuning.lora, *r.model, *r.directory);
  return r;
}

std::vector<float> dequantized(const QuantizedMatrix& m) {
  std::vector<float> out(static_cast<size_t>(m.count()));
  Arena arena(Place::host(), 1 << 20);
  ops::Context context(ops::cpu_backend(), arena);
  ops::dequantize(context, {m, 0, 0, Tensor::matrix(out.data(), DType::f32, m.rows, m.cols)});
  return out;
}

// Puts what quantisation left of the weights into a dense model, and the adapter as it began beside them.
void take_numbers(models::Decoder& dense, const models::Decoder& quantized) {
  for (const auto& p : quantized.parameters().all())
    if (p->is_quantized() || p->added) models::store(*dense.parameters().find(p->name), p->added ? floats(p->weight) : dequantized(p->quantized));
}

// An adapter that does something: B away from zero.
void move_adapter(models::Decoder& model) {
  for (const auto& p : model.parameters().all())
    if (p->added) {
      std::vector<float> values = floats(p->weight);
      for (size_t i = 0; i < values.size(); ++i) values[i] += 0.02f * std::sin(static_cast<float>(i * 7 + p->name.size()));
      models::store(*p, values);
    }
}

class QuantizedBase : public ::testing::TestWithParam<const char*> {};

TEST_P(QuantizedBase, LossAndGradientsAreThoseOfItsDequantisedWeights) {
  for (const auto& [how, dora] : {std::pair(kWays[0], false), {kWays[1], false}, {kWays[2], false}, {kWays[3], false}, {kWays[0], true}}) {
    tuning::LoraOptions lora;
    lora.config.use_dora = dora;
    Tuned q = begin(GetParam(), how, DType::f32, lora), d = begin(GetParam(), {}, DType::f32, lora);
    take_numbers(*d.model, *q.model);
    const Step step = split(eight_samples(static_cast<int>(q.model->config().vocab_size)), {{0, 1, 2, 3}, {4, 5, 6, 7}});
    objectives::CausalLm objective;
    for (Tuned* r : {&q, &d}) {
      move_adapter(*r->model);
      r->options.capacity = capacity_of(step);
      r->options.micro_batches = 2;
    }
    q.options.recompute = nn::Recompute::block;
    const auto a = make_engine(*q.model, objective, q.options), b = make_engine(*d.model, objective, d.options);
    const double quantized = a->step(step, 1, 0).loss, dense = b->step(step, 1, 0).loss;
    EXPECT_NEAR(quantized, dense, 1e-5 * dense) << text_of(how);
    size_t seen = 0;
    for (const auto& p : q.model->parameters().all()) {
      if (!p->trainable) continue;
      EXPECT_LT(relative_error(floats(p->gradient), floats(d.model->parameters().find(p->name)->gradient)), 2e-4) << text_of(how) << " " << p->name;
      ++seen;
    }
    EXPECT_GT(seen, 0u);
    EXPECT_EQ(a->memory().activations, a->arena().capacity());  // as the dry engine said
  }
}

TEST_P(QuantizedBase, OnlyTheLinearWeightsOfTheLayersAreQuantised) {
  const Tuned q = begin(GetParam(), {QuantType::nf4, true}), d = begin(GetParam(), {});
  uint64_t packed = 0;
  for (const auto& p : q.model->parameters().all()) {
    const bool linear = p->name.find("_proj.weight") != std::string::npos || p->name.find("W_pack") != std::string::npos;
    EXPECT_EQ(p->is_quantized(), linear && !p->added) << p->name;
    if (p->is_quantized()) {
      EXPECT_FALSE(p->trainable) << p->name;
      EXPECT_FALSE(p->weight.defined()) << p->name;
      packed += p->weight_bytes();
    } else {
      EXPECT_EQ(floats(p->weight), floats(d.model->parameters().find(p->name)->weight)) << p->name;
    }
  }
  EXPECT_GT(packed, 0u);
}

TEST_P(QuantizedBase, TheHashOfWhatIsFrozenSeesCodesAndScales) {
  const Tuned q = begin(GetParam(), {QuantType::nf4, true});
  const uint64_t before = tuning::frozen_hash(*q.model);
  for (const auto& p : q.model->parameters().all()) {
    if (!p->is_quantized()) continue;
    for (uint8_t* byte : {p->quantized.codes, reinterpret_cast<uint8_t*>(p->quantized.absmax), p->quantized.absmax_codes}) {
      *byte ^= 1;
      EXPECT_NE(tuning::frozen_hash(*q.model), before) << p->name;
      *byte ^= 1;
    }
  }
  EXPECT_EQ(tuning::frozen_hash(*q.model), before);
}

TEST_P(QuantizedBase, LearnsInBf16) {
  Tuned q = begin(GetParam(), {QuantType::nf4, true}, DType::bf16);
  const Step step = split(eight_samples(static_cast<int>(q.model->config().vocab_size)), {{0, 1, 2, 3, 4, 5, 6, 7}});
  q.options.capacity = capacity_of(step);
  objectives::CausalLm objective;
  const auto engine = make_engine(*q.model, objective, q.options);
  const uint64_t base = tuning::frozen_hash(*q.model);
  const double first = engine->step(step, 1, 1e-2f).loss;
  double last = first;
  for (int64_t i = 2; i <= 20; ++i) last = engine->step(step, i, 1e-2f).loss;
  EXPECT_LT(last, 0.9 * first);
  EXPECT_EQ(tuning::frozen_hash(*q.model), base);
}

INSTANTIATE_TEST_SUITE_P(Bases, QuantizedBase, ::testing::Values("models/llama2_tiny", "models/qwen2_tiny", "families/phi3"), [](const auto& info) {
  std::string name = info.param;
  return name.substr(name.find('/') + 1);
});

TEST(QuantizedBaseOptions, AModuleThatIsTrainedAsAWholeStaysDense) {
  tuning::LoraOptions lora;
  lora.config.target_modules = {"down_proj"};
  lora.config.modules_to_save = {"k_proj"};
  const Tuned q = begin("models/llama2_tiny", {QuantType::nf4, true}, DType::f32, lora);
  for (const auto& p : q.model->parameters().all()) {
    const bool beside = p->name.find("q_proj") != std::string::npos || p->name.find("k_proj") != std::string::npos || p->name.find("v_proj") != std::string::npos;
    if (p->name.find("_proj.weight") != std::string::npos && !p->added) {
      EXPECT_EQ(p->is_quantized(), !beside) << p->name;
    }
    EXPECT_EQ(p->trainable, p->added || p->name.find("k_proj.weight") != std::string::npos) << p->name;
  }
}

TEST(QuantizedBaseOptions, MergedAdaptersGoInBeforeQuantisation) {
  const fs::path adapter = fixture("adapters/llama2_lora");
  tuning::LoraOptions lora;
  lora.merged = {adapter.string()};
  const Quantization how{QuantType::nf4, true};
  const Tuned q = begin("models/llama2_tiny", how, DType::f32, lora);
  formats::ModelDirectory base(fixture("models/llama2_tiny"));
  auto dense = models::declare(base);
  dense->parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(*dense, base);
  models::merge_into(*dense, base, {adapter.string()});
  size_t seen = 0;
  for (const auto& p : q.model->parameters().all()) {
    if (!p->is_quantized()) continue;
    const auto values = floats(dense->parameters().find(p->name)->weight);
    Arena arena(Place::host(), p->quantized.bytes());
    const auto expected = QuantizedMatrix::over(arena.allocate(p->quantized.bytes()), how, p->quantized.rows, p->quantized.cols);
    ops::Quantizer quantizer(expected);
    ASSERT_TRUE(quantizer.add(values.data(), expected.rows));
    quantizer.finish();
    EXPECT_EQ(std::memcmp(expected.codes, p->quantized.codes, expected.bytes()), 0) << p->name;
    ++seen;
  }
  EXPECT_GT(seen, 0u);
}

TEST(QuantizedBaseOptions, ABaseWithANumberThatIsNotFiniteIsNamed) {
  Arena arena(Place::host(), 1 << 16);
  const Quantization how{QuantType::fp4, true};
  const auto m = QuantizedMatrix::over(arena.allocate(QuantizedMatrix::bytes(how, 70, 8)), how, 70, 8);
  const std::string message = error_of([&] {
    models::quantize(m, "layers.0.q_proj.weight", [](int64_t first, int64_t n, float* out) {
      std::fill(out, out + n * 8, 1.0f);
      if (first + n == 70) out[n * 8 - 1] = NAN;
    });
  });
  EXPECT_NE(message.find("layers.0.q_proj.weight"), std::string::npos) << message;
}

}  // namespace
}  // namespace attune
