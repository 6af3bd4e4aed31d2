// New tokens in a tokenizer's files (expectations: tools/reference/added_token_fixtures.py, Hugging Face's add_tokens).
#include "text/extend.h"

#include <algorithm>

#include "tokenizer_support.h"

namespace attune::text {
namespace {

std::vector<std::string> texts(const Json& list) { return list.get<std::vector<std::string>>(); }

class Extend : public ::testing::Test {
 protected:
  TempDirectory directory;
  Json expected = read_json(kFixtures / "added.json");

  std::vector<NewToken> extend() {
    const auto tokens = new_tokens(*Tokenizer::load(directory.path()), texts(expected["add_tokens"]), texts(expected["add_special_tokens"]));
    add_to_files(directory.path(), tokens);
    return tokens;
  }
  void expect_read_back(const std::vector<NewToken>& tokens) {
    const auto now = Tokenizer::load(directory.path());
    ASSERT_EQ(tokens.size(), 6u);
    for (const NewToken& t : tokens) {
      EXPECT_EQ(now->token_to_id(t.content), t.id);
      EXPECT_EQ(now->is_special(t.id), t.special) << t.content;
      const auto ids = now->encode("x" + t.content + "y").ids;
      EXPECT_EQ(std::count(ids.begin(), ids.end(), t.id), 1) << t.content;
    }
    EXPECT_EQ(now->vocab_size(), tokens.back().id + 1);
    // A user who types a special token does not get it.
    const ByteRange all{0, 8};
    EncodeOptions user;
    user.user_text = std::span(&all, 1);
    for (TokenId id : now->encode("<|tool|>", user).ids) EXPECT_FALSE(now->is_special(id));
    EXPECT_TRUE(new_tokens(*now, texts(expected["add_tokens"]), texts(expected["add_special_tokens"])).empty());
  }
};

TEST_F(Extend, IdsAndTokensAreThoseOfHuggingFace) {
  fs::copy_file(kFixtures / "base.json", directory.path() / "tokenizer.json");
  const std::string before = read_file(directory.path() / "tokenizer.json");
  const auto tokens = extend();
  std::vector<TokenId> ids;
  for (const NewToken& t : tokens) ids.push_back(t.id);
  EXPECT_EQ(ids, expected["ids"].get<std::vector<TokenId>>());
  const auto tokenizer = Tokenizer::load(directory.path());
  for (size_t i = 0; i < expected["texts"].size(); ++i)
    EXPECT_EQ(tokenizer->encode(expected["texts"][i].get<std::string>()).ids, expected["encoded"][i].get<std::vector<TokenId>>()) << expected["texts"][i];
  expect_read_back(tokens);
  // The rest of the file is as it was, to the letter.
  std::string after = read_file(directory.path() / "tokenizer.json");
  const size_t begin = after.find(",{\"id\": " + std::to_string(ids[0])), end = after.find("],\"normalizer\"");
  ASSERT_NE(begin, std::string::npos);
  after.erase(begin, end - begin);
  EXPECT_EQ(after, before);
}

TEST_F(Extend, EveryFileBesideItLearnsOfThem) {
  fs::copy_file(kFixtures / "base.json", directory.path() / "tokenizer.json");
  directory.write("tokenizer_config.json", R"({"eos_token": "<|end|>", "added_tokens_decoder": {"0": {"content": "<|start|>", "special": true}}})");
  directory.write("special_tokens_map.json", R"({"eos_token": "<|end|>", "additional_special_tokens": ["<|start|>"]})");
  directory.write("added_tokens.json", R"({"<|start|>": 0})");
  const auto tokens = extend();
  expect_read_back(tokens);
  const Json config = read_json(directory.path() / "tokenizer_config.json"), map = read_json(directory.path() / "special_tokens_map.json");
  EXPECT_EQ(config["added_tokens_decoder"].size(), 7u);
  EXPECT_EQ(config["added_tokens_decoder"][std::to_string(tokens.back().id)]["special"], true);
  EXPECT_EQ(config["additional_special_tokens"], (Json{"<|tool|>", "<|result|>"}));
  EXPECT_EQ(map["additional_special_tokens"], (Json{"<|start|>", "<|tool|>", "<|result|>"}));
  EXPECT_EQ(read_json(directory.path() / "added_tokens.json").size(), 7u);
}

TEST_F(Extend, SentencePieceModelsGetTheirTokensBesideTheModel) {
  fs::copy_file(kFixtures / "sentencepiece/tokenizer.model", directory.path() / "tokenizer.model");
  expect_read_back(extend());
  EXPECT_EQ(read_json(directory.path() / "added_tokens.json").size(), 6u);
}

TEST_F(Extend, AListThatIsEmptyOrMissingIsMade) {
  const std::string json = read_file(kFixtures / "base.json");
  const size_t begin = json.find("[{\"id\":0"), end = json.find("],\"normalizer\"");
  const std::string model_only = R"({"version":"1.0",)" + json.substr(json.find("\"normalizer\""));
  for (const std::string& text : {json.substr(0, begin) + "[ ]" + json.substr(end + 1), model_only}) {
    directory.write("tokenizer.json", text);
    expect_read_back(extend());
  }
}

TEST_F(Extend, WhatIsNoTokenIsRefused) {
  fs::copy_file(kFixtures / "base.json", directory.path() / "tokenizer.json");
  const auto tokenizer = Tokenizer::load(directory.path());
  const auto refusal = [&](const std::vector<std::string>& plain, const std::vector<std::string>& special) {
    return test::error_of([&] { new_tokens(*tokenizer, plain, special); });
  };
  EXPECT_NE(refusal({"  "}, {}).find("add_tokens"), std::string::npos);
  EXPECT_NE(refusal({"new"}, {"new"}).find("twice"), std::string::npos);
  EXPECT_NE(refusal({std::string(600, 'x')}, {}).find("600"), std::string::npos);
  EXPECT_NE(refusal({"\xff"}, {}).find("UTF-8"), std::string::npos);
  EXPECT_NE(refusal({}, {"Once"}).find("ordinary"), std::string::npos);
  EXPECT_TRUE(new_tokens(*tokenizer, {"Once", "<|end|>"}, {"<|start|>"}).empty());
}

}  // namespace
}  // namespace attune::text
