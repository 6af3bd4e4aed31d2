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
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = {{"rope_type", "yarn"}}; }).find("yarn"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = {{"rope_type", "llama3"}, {"factor", 0}}; }).find("llama3"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["rope_parameters"] = 3; }).find("rope_parameters"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) { c["quantization_config"] = Json::object(); }).find("quantis"), std::string::npos);
  EXPECT_NE(refusal([](Json& c) {
              c["model_type"] = "qwen2";
              c["use_sliding_window"] = true;
            }).find("sliding"), std::string::npos);
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

TEST(Initialise, IsAFunctionOfSeedAndName) {
  const DecoderConfig config = parsed(fixture("models/qwen2_tiny/config.json"));
  models::Decoder a(config), b(config), other(config);
  for (auto* m : {&a, &b, &other}) {
    m->parameters().allocate_weights(Arena::Kind::real, DType::f32);
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
