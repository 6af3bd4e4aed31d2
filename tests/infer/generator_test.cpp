// Generation with a cache says what a full forward says, for every way in which a family attends and positions.
#include "infer/generator.h"

#include <array>
#include <cmath>
#include <set>

#include "infer/text_stream.h"
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

std::vector<infer::Prompt> prompts_of_many_lengths() {
  std::vector<infer::Prompt> prompts;
  for (int n : {6, 1, 17, 3, 9, 2, 5}) {
    infer::Prompt p;
    p.sample = prompts.size();
    for (int i = 0; i < n; ++i) p.ids.push_back(3 + (n * 31 + i * 57) % 500);
    prompts.push_back(p);
  }
  return prompts;
}

std::vector<std::vector<int32_t>> ids_of(const std::vector<infer::Generation>& answers) {
  std::vector<std::vector<int32_t>> out;
  for (const auto& a : answers) out.push_back(a.ids);
  return out;
}

TEST(Batch, AnAnswerDoesNotDependOnWhatItIsBatchedWith) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Workspace work;
    infer::Generator generator(make_small_model(work / c.name, c.config).string(), DType::f32);
    const auto prompts = prompts_of_many_lengths();
    for (double temperature : {0.0, 0.8}) {
      infer::GenerateOptions options;
      options.max_new_tokens = 11;
      options.temperature = temperature;
      std::vector<std::vector<int32_t>> alone;
      for (const infer::Prompt& p : prompts) alone.push_back(generator.generate_batch({&p, 1}, options)[0].ids);
      for (int64_t batch : {1, 3, 7, 16}) {
        options.batch_size = batch;
        EXPECT_EQ(ids_of(generator.generate_batch(prompts, options)), alone) << "batch of " << batch << ", temperature " << temperature;
      }
    }
  }
}

class SmallSession : public ::testing::Test {
 protected:
  SmallSession() : generator(make_small_model(work / "model", changed("llama", Json::object())).string(), DType::f32) {}
  Workspace work;
  infer::Generator generator;
  infer::GenerateOptions options;
};

TEST_F(SmallSession, SequencesThatEndMakeRoomForTheNext) {
  const auto prompts = prompts_of_many_lengths();
  options.max_new_tokens = 12;
  options.batch_size = 2;
  const auto whole = generator.generate_batch(prompts, options);
  // One is stopped by the listener, one by a token; the others get what they get alone.
  const int32_t stop = whole[2].ids[4];
  options.stop_ids = {stop};
  std::vector<size_t> order;
  infer::Listener listener;
  listener.on_token = [seen = 0](size_t prompt, int32_t) mutable { return prompt != 0 || ++seen < 3; };
  listener.on_answer = [&](size_t prompt, const infer::Generation&) { order.push_back(prompt); };
  const auto answers = generator.generate_batch(prompts, options, listener);
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto expected = whole[i].ids;
    expected.erase(std::find(expected.begin(), expected.end(), stop), expected.end());
    bool stopped = expected.size() < whole[i].ids.size();
    if (i == 0 && expected.size() >= 3) expected.resize(3), stopped = true;
    EXPECT_EQ(answers[i].ids, expected) << i;
    EXPECT_EQ(answers[i].stopped, stopped) << i;
  }
  EXPECT_EQ(order.size(), prompts.size());
  EXPECT_EQ(order[0], 0u);
  EXPECT_EQ(std::set<size_t>(order.begin(), order.end()).size(), prompts.size());
}

TEST_F(SmallSession, TheSampleIsPartOfWhatAChoiceIsAFunctionOf) {
  infer::Prompt p{{1, 40, 41}, 0};
  options.temperature = 1.5;
  options.max_new_tokens = 16;
  std::set<std::vector<int32_t>> different;
  for (uint64_t sample = 0; sample < 4; ++sample) {
    p.sample = sample;
    const auto first = generator.generate_batch({&p, 1}, options)[0].ids;
    EXPECT_EQ(first, generator.generate_batch({&p, 1}, options)[0].ids);
    different.insert(first);
  }
  EXPECT_EQ(different.size(), 4u);
}

TEST_F(SmallSession, LengthsThatCannotBeAreRefused) {
  options.max_new_tokens = int64_t{1} << 40;
  const auto prompts = prompts_of_many_lengths();
  const std::string message = error_of([&] { generator.generate_batch(prompts, options); });
  EXPECT_NE(message.find("keys and values of 7 sequences"), std::string::npos) << message;
  EXPECT_NE(error_of([&] { generator.generate({}, options); }).find("empty"), std::string::npos);
  EXPECT_NE(error_of([&] { generator.generate({600}, options); }).find("600"), std::string::npos);
  options.max_length = 10;
  const auto answers = generator.generate_batch(prompts, options);
  for (size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(answers[i].ids.size(), prompts[i].ids.size() < 10 ? 10 - prompts[i].ids.size() : 0);
}

TEST(KeptText, ContinuesAsIfAllOfItWereRunAgain) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Workspace work;
    infer::Generator generator(make_small_model(work / c.name, c.config).string(), DType::f32);
    infer::GenerateOptions options;
    options.max_new_tokens = 5;
    infer::KeptText kept = generator.session().keep(64);
    std::vector<int32_t> text{1, 40, 41, 300};
    for (int turn = 0; turn < 4; ++turn) {
      const auto answer = generator.session().generate(kept, {text, 0}, options);
      EXPECT_EQ(answer.ids, generator.generate(text, options).ids) << "turn " << turn;
      EXPECT_EQ(kept.ids.size(), text.size() + 4);  // the last token has not run
      text.insert(text.end(), answer.ids.begin(), answer.ids.end());
      if (turn == 2) text.resize(8);  // the conversation is cut back and goes on differently
      text.insert(text.end(), {7 + turn, 90, 91});
    }
    EXPECT_TRUE(generator.session().generate(kept, {std::vector<int32_t>(64, 5), 0}, options).ids.empty());
  }
}

TEST_F(SmallSession, AKeptTextRunsOnlyWhatIsNew) {
  options.max_new_tokens = 5;
  infer::KeptText kept = generator.session().keep(64);
  std::vector<int32_t> text{1, 40, 41, 300};
  const auto run = [&] {
    const int64_t before = generator.session().tokens_run();
    const auto ids = generator.session().generate(kept, {text, 0}, options).ids;
    text.insert(text.end(), ids.begin(), ids.end());
    return generator.session().tokens_run() - before;
  };
  EXPECT_EQ(run(), 4 + 4);
  text.insert(text.end(), {7, 90, 91});
  EXPECT_EQ(run(), 1 + 3 + 4);  // the last token of the answer, what is new, and the answer but its last
  text.resize(6);
  EXPECT_EQ(run(), 1 + 4);
}

TEST_F(SmallSession, WhatGenerationTakesIsKnownBefore) {
  const auto bytes = [&](int64_t sequences, int64_t prompt, int64_t answer) {
    return infer::generation_bytes(generator.model(), DType::f32, sequences, prompt, answer);
  };
  const auto cache = [&](int64_t tokens) { return generator.model().cache_bytes(tokens, DType::f32); };
  EXPECT_EQ(cache(10), 2u * 2 * (10 * 2 * 8 * 4 + 64));
  EXPECT_GE(bytes(4, 10, 100), cache(4 * 110));
  EXPECT_GE(bytes(4, 10, 200), bytes(4, 10, 100) + 4 * (cache(100) - cache(0)));
  EXPECT_GT(bytes(4, 500, 10), bytes(4, 10, 10));
}

TEST(TextStream, HoldsBackWhatMayEndTheAnswer) {
  const Workspace work;
  copy_small_tokenizer(work / "t");
  const auto tokenizer = text::Tokenizer::load(work / "t");
  const auto stream = [&](const std::string& text, const std::vector<std::string>& stops) {
    infer::TextStream out(*tokenizer, stops);
    std::string shown;
    for (int32_t id : tokenizer->encode(text).ids) {
      if (out.stopped()) break;
      shown += out.push(id);
      EXPECT_EQ(text.find(shown), shown.empty() ? 0 : text.find(shown[0]));  // never more than is sure
    }
    shown += out.finish();
    EXPECT_EQ(shown, out.text());
    return shown;
  };
  const std::string story = "Once upon a time there was a cat\nUser: who?";
  EXPECT_EQ(stream(story, {}), story);
  EXPECT_EQ(stream(story, {"\nUser:"}), "Once upon a time there was a cat");
  EXPECT_EQ(stream(story, {"nothing", "there w"}), "Once upon a time ");
  EXPECT_EQ(stream(story, {"who?!"}), story);  // begins, but is not there
  EXPECT_EQ(infer::before_stop(story, {"cat", "was"}), "Once upon a time there ");
}

TEST(Sampler, PenaltyAndMinPTakeTokensAway) {
  const std::vector<float> logits{2.0f, 1.9f, -1.0f, 0.0f};
  const auto pick = [&](const std::vector<int32_t>& text, const infer::SampleOptions& o, uint64_t position) {
    std::vector<float> copy = logits;
    return infer::sample(copy, text, o, {0, position});
  };
  infer::SampleOptions o;
  EXPECT_EQ(pick({}, o, 0), 0);
  o.repetition_penalty = 1.2;
  EXPECT_EQ(pick({0, 0, 3}, o, 0), 1);
  EXPECT_EQ(pick({0, 1}, o, 0), 0);
  o = {};
  o.temperature = 1;
  o.min_p = 0.5;
  std::set<int32_t> seen;
  for (uint64_t i = 0; i < 200; ++i) seen.insert(pick({}, o, i));
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1}));
  o.top_p = 0.999999;  // the other way through
  seen.clear();
  for (uint64_t i = 0; i < 200; ++i) seen.insert(pick({}, o, i));
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1}));
  o = {};
  o.temperature = 1;
  std::array<int, 4> counts{};
  for (uint64_t i = 0; i < 4000; ++i) ++counts[static_cast<size_t>(pick({}, o, i))];
  double sum = 0;
  for (float x : logits) sum += std::exp(x);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(counts[i] / 4000.0, std::exp(logits[i]) / sum, 0.03);
}

}  // namespace
}  // namespace attune
