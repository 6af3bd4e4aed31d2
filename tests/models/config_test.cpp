// config.json in both of its dialects, and what is refused with a name.
#include "models/decoder_config.h"

#include <unistd.h>

#include "models/families/family.h"
#include "support/fixtures.h"
#include "util/files.h"

namespace attune {
namespace {

using namespace test;
using models::DecoderConfig;

DecoderConfig parsed(const fs::path& file) { return models::parse_config(read_json(file), file.string()); }

void expect_equal(const DecoderConfig& a, const DecoderConfig& b) {
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
  EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.qkv_bias, b.qkv_bias);
  EXPECT_EQ(a.o_bias, b.o_bias);
  EXPECT_EQ(a.mlp_bias, b.mlp_bias);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.rope.theta, b.rope.theta);
  EXPECT_EQ(a.rope.type, b.rope.type);
  EXPECT_EQ(a.rope.factor, b.rope.factor);
  EXPECT_EQ(a.rope.low_freq_factor, b.rope.low_freq_factor);
  EXPECT_EQ(a.rope.high_freq_factor, b.rope.high_freq_factor);
  EXPECT_EQ(a.rope.original_max_position_embeddings, b.rope.original_max_position_embeddings);
  EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
}

TEST(Config, BothDialectsMeanTheSame) {
  int compared = 0;
  for (const char* name : {"llama2_tiny", "llama3_tiny", "qwen2_tiny", "qwen2_sharded"})
    for (const char* other : {"config.legacy.json", "config.v5.json"}) {
      const fs::path path = fixture("models") / name;
      if (!fs::exists(path / other)) continue;
      SCOPED_TRACE(name);
      expect_equal(parsed(path / "config.json"), parsed(path / other));
      ++compared;
    }
  EXPECT_EQ(compared, 4);
}

TEST(Config, ReadsWhatTheFixturesSay) {
  const DecoderConfig llama3 = parsed(fixture("models/llama3_tiny/config.json")), qwen = parsed(fixture("models/qwen2_tiny/config.json")),
                      llama2 = parsed(fixture("models/llama2_tiny/config.json"));
  EXPECT_EQ(llama3.rope.type, models::RopeConfig::Type::llama3);
  EXPECT_EQ(llama3.rope.theta, 500000);
  EXPECT_EQ(llama3.rope.factor, 8);
  EXPECT_EQ(llama3.eos_token_ids, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(llama3.num_key_value_heads, 2);
  EXPECT_EQ(llama3.rms_norm_eps, 1e-5f);
  EXPECT_EQ(qwen.rope.theta, 1e6);
  EXPECT_TRUE(qwen.qkv_bias && qwen.tie_word_embeddings);
  EXPECT_FALSE(qwen.o_bias || qwen.mlp_bias);
  EXPECT_EQ(qwen.head_dim, 16);
  EXPECT_FALSE(llama2.qkv_bias || llama2.tie_word_embeddings);
}

// The message with which a change of the llama2 config is refused; empty where it is accepted.
std::string refusal(const std::function<void(Json&)>& change) {
  Json config = read_json(fixture("models/llama2_tiny/config.json"));
  change(config);
  try {
    models::parse_config(config, "here/config.json");
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("here/config.json"), std::string::npos) << e.what();
    return e.what();
  }
  return "";
}

TEST(Config, AnUnsupportedFamilyIsRefusedByNameWithTheList) {
  const std::string message = refusal([](Json& c) { c["model_type"] = "mamba"; });
  EXPECT_NE(message.find("mamba"), std::string::npos);
  for (const std::string& name : models::supported_families()) EXPECT_NE(message.find(name), std::string::npos) << name;
  EXPECT_NE(refusal([](Json& c) { c.erase("model_type"); }), "");
  EXPECT_NE(refusal([](Json& c) { c["model_type"] = 3; }), "");
  EXPECT_THROW(models::parse_config(Json::array(), "x"), Error);
}

TEST(Config, NonsenseIsRefusedAndTheKeyIsNamed) {
  EXPECT_EQ(refusal([](Json&) {}), "");
  const int64_t huge = int64_t{1} << 40;
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "vocab_size", "head_dim", "max_position_embeddings"}) {
    for (const Json& bad : {Json(0), Json(-4), Json(huge), Json(2.5), Json("32"), Json(true), Json(18446744073709551615ull),
                            Json(std::numeric_limits<int64_t>::min()), Json::array({1})})
      EXPECT_NE(refusal([&](Json& c) { c[key] = bad; }).find(key), std::string::npos) << key << " " << bad.dump();
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"})
    EXPECT_NE(refusal([&](Json& c) { c.erase(key); }).find(key), std::string::npos);
  for (const char* key : {"rms_norm_eps", "attention_dropout", "initializer_range"})
    EXPECT_NE(refusal([&](Json& c) { c[key] = "x"; }).find(key), std::string::npos);
  for (const char* key : {"tie_word_embeddings", "attention_bias", "mlp_bias"})
    EXPECT_NE(refusal([&](Json& c) { c[key] = 1; }).find(key), std::string::npos);
}

TEST(Config, SizesThatDoNotFitEachOtherAreRefused) {
  EXPECT_NE(refusal([](Json& c) { c["num_key_value_heads"] = 3; }).find("num_key_value_heads"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["num_key_value_heads"] = 8; }).find("num_key_value_heads"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["head_dim"] = 7; }).find("head_dim"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) {
              c["num_attention_heads"] = c["num_key_value_heads"] = 3;  // 32 is not a multiple of 3
              c.erase("head_dim");
            }).find("num_attention_heads"), std::string::npos);
  // Each within its limit, the product beyond any memory and beyond 64 bits of bytes.
  EXPECT_NE(refusal([](Json& c) {
              c["num_attention_heads"] = c["num_key_value_heads"] = 1 << 24;
              c["head_dim"] = 1 << 24;
              c["hidden_size"] = 1 << 24;
            }).find("head_dim"), std::string::npos);
}

TEST(Config, NumbersThatCannotWorkAreRefused) {
  for (double eps : {0.0, -1e-6}) EXPECT_NE(refusal([&](Json& c) { c["rms_norm_eps"] = eps; }).find("rms_norm_eps"), std::string::npos);
  for (double theta : {0.0, -1.0}) EXPECT_NE(refusal([&](Json& c) { c["rope_parameters"]["rope_theta"] = theta; }).find("rope_theta"), std::string::npos);
  for (double p : {-0.1, 1.0}) EXPECT_NE(refusal([&](Json& c) { c["attention_dropout"] = p; }).find("attention_dropout"), std::string::npos);
}

TEST(Config, FeaturesThatWouldChangeResultsAreRefused) {
  EXPECT_NE(refusal([](Json& c) { c["hidden_act"] = "gelu"; }).find("gelu"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = {{"rope_type", "yarn"}}; }).find("yarn"), std::string::npos) << "without a factor";
  const std::string unknown = refusal([](Json& c) { c["rope_parameters"] = {{"rope_type", "spiral"}}; });
  for (const char* name : {"spiral", "default", "linear", "dynamic", "yarn", "longrope", "llama3"})
    EXPECT_NE(unknown.find(name), std::string::npos) << unknown;
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = {{"rope_type", "llama3"}, {"factor", 0}}; }).find("llama3"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = 3; }).find("rope_parameters"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["quantization_config"] = Json::object(); }).find("quantis"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) {
              c["model_type"] = "qwen2";
              c["layer_types"] = {"full_attention", "sliding_attention"};  // but use_sliding_window is not on
            }).find("sliding"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["partial_rotary_factor"] = 0.5; }).find("partial_rotary_factor"), std::string::npos);
  const auto family = [](const char* name) {
    return [name](Json& c) { c["model_type"] = name, c["head_dim"] = 8, c["num_key_value_heads"] = 2, c.erase("hidden_act"); };
  };
  EXPECT_EQ(refusal(family("gemma2")), "");
  EXPECT_NE(refusal([&](Json& c) { family("gemma2")(c), c["use_bidirectional_attention"] = true; }).find("bidirectional"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("gemma2")(c), c["hidden_activation"] = "relu"; }).find("relu"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("gemma2")(c), c["query_pre_attn_scalar"] = 0; }).find("query_pre_attn_scalar"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("gemma3_text")(c), c["attn_logit_softcapping"] = 50; }).find("attn_logit_softcapping"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("gemma3_text")(c), c["sliding_window_pattern"] = 0; }).find("sliding_window_pattern"), std::string::npos);
  EXPECT_EQ(refusal(family("phi3")), "");
  EXPECT_NE(refusal([&](Json& c) { family("phi3")(c), c["resid_pdrop"] = 0.1; }).find("resid_pdrop"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("phi3")(c), c["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2}}; }).find("phi3"), std::string::npos);
  EXPECT_NE(refusal([&](Json& c) { family("phi3")(c), c["partial_rotary_factor"] = 0.4; }).find("partial_rotary_factor"), std::string::npos) << "3.2 dimensions";
  EXPECT_EQ(refusal(family("qwen3")), "");
  EXPECT_NE(refusal([&](Json& c) { family("qwen3")(c), c.erase("head_dim"); }).find("head_dim"), std::string::npos);
  EXPECT_EQ(refusal(family("mistral")), "");
  for (const Json& window : {Json(0), Json(-1), Json("x")})
    EXPECT_NE(refusal([&](Json& c) { family("mistral")(c), c["sliding_window"] = window; }).find("sliding_window"), std::string::npos);
}

TEST(Config, LayerTypesMustFitTheLayers) {
  const auto types = [](const Json& list) {
    return refusal([&](Json& c) { c["model_type"] = "mistral", c["sliding_window"] = 8, c["layer_types"] = list; });
  };
  EXPECT_EQ(types({"sliding_attention", "full_attention"}), "");
  for (const Json& bad : {Json::array({"full_attention"}), Json::array({"full_attention", "chunked_attention"}), Json("full_attention"), Json::array({1, 2})})
    EXPECT_NE(types(bad).find("layer_types"), std::string::npos) << bad.dump();
}

TEST(Config, WindowsAreThoseThatTransformersReads) {
  const auto windows = [](const char* family, const Json& changes) {
    Json c = read_json(fixture("models/llama2_tiny/config.json"));
    c["model_type"] = family;
    c["num_hidden_layers"] = 4;
    c.update(changes);
    const DecoderConfig config = models::parse_config(c, "config.json");
    std::vector<int64_t> out;
    for (int64_t i = 0; i < 4; ++i) out.push_back(config.slides(i) ? config.sliding_window : 0);
    return out;
  };
  using Windows = std::vector<int64_t>;
  EXPECT_EQ(windows("mistral", {{"sliding_window", 9}}), (Windows{9, 9, 9, 9}));
  EXPECT_EQ(windows("mistral", {{"sliding_window", nullptr}}), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("mistral", Json::object()), (Windows{4096, 4096, 4096, 4096}));
  EXPECT_EQ(windows("qwen2", {{"sliding_window", 9}, {"max_window_layers", 1}}), (Windows{0, 0, 0, 0})) << "not in use";
  EXPECT_EQ(windows("qwen2", {{"sliding_window", 9}, {"max_window_layers", 3}, {"use_sliding_window", true}}), (Windows{0, 0, 0, 9}));
  const Json gemma = {{"sliding_window", 9}, {"head_dim", 8}, {"hidden_act", nullptr}};
  EXPECT_EQ(windows("gemma2", gemma), (Windows{9, 0, 9, 0}));
  Json gemma3 = gemma;
  gemma3["sliding_window_pattern"] = 3;
  EXPECT_EQ(windows("gemma3_text", gemma3), (Windows{9, 9, 0, 9}));
  EXPECT_EQ(windows("phi3", {{"sliding_window", 9}}), (Windows{9, 9, 9, 9}));
  EXPECT_EQ(windows("phi3", Json::object()), (Windows{0, 0, 0, 0}));
}

TEST(Config, RotaryScalingsMustMakeSense) {
  const auto rope = [](const Json& settings) {
    return refusal([&](Json& c) { c["rope_parameters"] = settings; });
  };
  for (const char* type : {"linear", "dynamic", "llama3"}) EXPECT_NE(rope({{"rope_type", type}}).find("factor"), std::string::npos) << type;
  EXPECT_EQ(rope({{"rope_type", "linear"}, {"factor", 2}}), "");
  EXPECT_NE(rope({{"rope_type", "linear"}, {"factor", -2}}).find("factor"), std::string::npos);
  EXPECT_NE(rope({{"rope_type", "dynamic"}, {"factor", 0.5}}).find("dynamic"), std::string::npos);
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 32}};
  EXPECT_EQ(rope(yarn), "");
  for (const auto& [key, value] : std::vector<std::pair<const char*, Json>>{
           {"beta_fast", 0}, {"beta_slow", 64}, {"attention_factor", -1}, {"truncate", 1}, {"original_max_position_embeddings", 0}}) {
    Json bad = yarn;
    bad[key] = value;
    EXPECT_NE(rope(bad).find(std::string(key).substr(0, 5)), std::string::npos) << key;
  }
  const Json longrope = {{"rope_type", "longrope"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {1, 2, 3, 4}}, {"original_max_position_embeddings", 32}};
  EXPECT_EQ(rope(longrope), "");
  for (const char* key : {"short_factor", "long_factor"})
    for (const Json& bad_value : {Json({1, 2}), Json(1), Json({1, 2, 3, "x"}), Json({1, 2, 3, 0})}) {
      Json bad = longrope;
      bad[key] = bad_value;
      EXPECT_NE(rope(bad).find(key), std::string::npos) << key << bad_value.dump();
    }
  EXPECT_NE(rope({{"full_attention", 3}}).find("full_attention"), std::string::npos);
  EXPECT_NE(rope({{"sliding_attention", {{"rope_type", "spiral"}}}}).find("spiral"), std::string::npos);
}

TEST(Config, BaichuanTellsItsModelsApartAsTheirFilesDo) {
  Json config = {{"model_type", "baichuan"}, {"hidden_size", 24}, {"intermediate_size", 32}, {"num_hidden_layers", 2},
                 {"num_attention_heads", 6}, {"vocab_size", 125696}, {"model_max_length", 64}};
  DecoderConfig c = models::parse_config(config, "config.json");
  EXPECT_EQ(c.positions, models::PositionEncoding::alibi);
  EXPECT_TRUE(c.norm_head);
  EXPECT_EQ(c.max_position_embeddings, 64);
  config["max_position_embeddings"] = 128;
  config["vocab_size"] = 64000;
  c = models::parse_config(config, "config.json");
  EXPECT_EQ(c.positions, models::PositionEncoding::rope);
  EXPECT_FALSE(c.norm_head) << "the first generation";
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  EXPECT_THROW(models::parse_config(config, "config.json"), Error);
  config.erase("rope_scaling");
  config["z_loss_weight"] = -1;
  EXPECT_THROW(models::parse_config(config, "config.json"), Error);
  for (const char* key : {"max_position_embeddings", "model_max_length", "z_loss_weight"}) config.erase(key);
  EXPECT_THROW(models::parse_config(config, "config.json"), Error);
}

TEST(Alibi, SlopesAreThoseOfThePaperAndBetweenThemForOtherCounts) {
  EXPECT_EQ(models::alibi_slopes(8), (std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f}));
  const auto six = models::alibi_slopes(6);
  const std::vector<double> expected{0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  ASSERT_EQ(six.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(six[i], expected[i], 1e-7);
  EXPECT_EQ(models::alibi_slopes(40).size(), 40u);
}

// Absurd sizes: each within what config.json allows alone, together beyond any machine.
TEST(Config, AbsurdSizesAreToldApartFromSmallOnesWithoutTakingMemory) {
  for (const char* key : {"hidden_size", "intermediate_size", "vocab_size"}) {
    Json config = read_json(fixture("models/llama2_tiny/config.json"));
    config[key] = 1 << 24;
    config["num_hidden_layers"] = 4;
    const models::Decoder model(models::parse_config(config, "config.json"));
    for (const auto& p : model.parameters().all()) EXPECT_FALSE(p->weight.defined());
  }
}

// Weights that do not belong to the config --------------------------------------------------------------------------------

class Weights : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("attune_weights_" + std::to_string(::getpid()) + "_" +
                                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  // Copies a fixture with its tensors changed; returns what loading it says.
  std::string load_changed(const char* name, const std::function<void(std::vector<formats::TensorSource>&)>& change) {
    auto model = load_model(fixture("models") / name);
    const Json config = read_json(fixture("models") / name / "config.json");
    std::vector<formats::TensorSource> tensors;
    for (const auto& p : model->parameters().all()) tensors.push_back({p->name, p->shape, p->weight.data, DType::f32, DType::f32});
    change(tensors);
    formats::SaveOptions options;
    options.config = &config;
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    formats::save_model(directory_, tensors, options);
    try {
      load_model(directory_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  fs::path directory_;
};

TEST_F(Weights, AMissingAnExtraAndAMisshapenTensorAreNamed) {
  EXPECT_EQ(load_changed("llama2_tiny", [](auto&) {}), "");
  EXPECT_NE(load_changed("llama2_tiny", [](auto& t) { t.erase(t.begin() + 3); }).find("model.layers.0.self_attn.k_proj.weight"), std::string::npos);
  static const float one[1] = {1};
  EXPECT_NE(load_changed("llama2_tiny", [](auto& t) { t.push_back({"model.layers.0.extra", {1}, one, DType::f32, DType::f32}); }).find("model.layers.0.extra"), std::string::npos);
  const std::string message = load_changed("llama2_tiny", [](auto& t) { t[0].shape = {t[0].shape[1], t[0].shape[0]}; });
  EXPECT_NE(message.find("model.embed_tokens.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("[32, 160]"), std::string::npos) << message;
  EXPECT_NE(message.find("[160, 32]"), std::string::npos) << message;
}

TEST_F(Weights, KnownLeftoversAreSkipped) {
  static const float buffer[4] = {1, 1, 1, 1};
  EXPECT_EQ(load_changed("qwen2_tiny", [](auto& t) {
              formats::TensorSource head = t[0];
              head.name = "lm_head.weight";
              t.push_back(head);
              t.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {4}, buffer, DType::f32, DType::f32});
            }), "");
}

TEST_F(Weights, SavedAndLoadedAgainTheyAreTheSame) {
  EXPECT_EQ(load_changed("qwen2_sharded", [](auto&) {}), "");
  auto a = load_model(fixture("models/qwen2_sharded")), b = load_model(directory_);
  for (const auto& p : a->parameters().all()) EXPECT_EQ(floats(p->weight), floats(b->parameters().find(p->name)->weight)) << p->name;
}

TEST(Initialise, WhatIsMadeWhileItIsWrittenIsWhatWouldBeInMemory) {
  const DecoderConfig config = parsed(fixture("models/qwen2_tiny/config.json"));
  for (DType dtype : {DType::f32, DType::bf16}) {
    models::Decoder model(config);
    model.parameters().allocate_weights(Place::host(), dtype);
    models::initialise_weights(model, 5);
    const auto sources = models::initial_tensors(model, dtype, 5);
    ASSERT_EQ(sources.size(), model.parameters().all().size());
    for (size_t i = 0; i < sources.size(); ++i) {
      const nn::Parameter& p = *model.parameters().all()[i];
      std::vector<char> made(p.weight.bytes());
      const auto n = static_cast<uint64_t>(p.count()), half = n / 8 * 4;
      sources[i].make(0, half, made.data());
      sources[i].make(half, n - half, made.data() + half * size_of(dtype));
      EXPECT_EQ(std::memcmp(made.data(), p.weight.data, made.size()), 0) << p.name;
    }
  }
}

TEST(Initialise, IsAFunctionOfSeedAndName) {
  const DecoderConfig config = parsed(fixture("models/qwen2_tiny/config.json"));
  models::Decoder a(config), b(config), other(config);
  for (auto* m : {&a, &b, &other}) {
    m->parameters().allocate_weights(Place::host(), DType::f32);
    models::initialise_weights(*m, m == &other ? 2 : 1);
  }
  for (const auto& p : a.parameters().all()) {
    EXPECT_EQ(floats(p->weight), floats(b.parameters().find(p->name)->weight));
    const bool constant = p->name.ends_with("norm.weight") || p->name.ends_with(".bias");
    EXPECT_EQ(floats(p->weight) == floats(other.parameters().find(p->name)->weight), constant) << p->name;
    if (constant) continue;
    double sum = 0, squares = 0;
    for (float x : floats(p->weight)) {
      sum += x;
      squares += static_cast<double>(x) * x;
    }
    const auto n = static_cast<double>(p->count());
    EXPECT_NEAR(std::sqrt(squares / n), 0.02, 0.002) << p->name;
    EXPECT_NEAR(sum / n, 0, 0.002) << p->name;
  }
}

}  // namespace
}  // namespace attune
