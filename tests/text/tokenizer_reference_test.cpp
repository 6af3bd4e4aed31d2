// The reference libraries' ids for hard strings, for every component in small models and for real ones where
// present.
#include <sstream>

#include "text/tokenizer_support.h"

namespace attune::text {
namespace {

std::vector<std::string> strings() {
  return fixture("strings.json").get<std::vector<std::string>>();
}

// Tokens must cover the text without gaps, except where a normaliser or splitter dropped something.
void expect_ordered_offsets(const Encoding& encoding, const std::string& text) {
  ASSERT_EQ(encoding.ids.size(), encoding.offsets.size());
  size_t begin = 0;
  for (const ByteRange& range : encoding.offsets) {
    EXPECT_GE(range.begin, begin) << text;
    EXPECT_LE(range.begin, range.end) << text;
    EXPECT_LE(range.end, text.size()) << text;
    begin = range.begin;
  }
}

class Variant : public testing::TestWithParam<std::string> {};

TEST_P(Variant, GivesTheReferenceIds) {
  const auto tokenizer = load_json(variant_json(GetParam()));
  const Json& expected = fixture("expected.json").at(GetParam());
  const auto texts = strings();
  for (size_t i = 0; i < texts.size(); ++i) {
    const Encoding encoding = tokenizer->encode(texts[i]);
    EXPECT_EQ(encoding.ids, expected["ids"][i].get<std::vector<TokenId>>()) << i << ": " << texts[i];
    expect_ordered_offsets(encoding, texts[i]);
    if (!expected["decoded"].empty()) {
      EXPECT_EQ(tokenizer->decode(encoding.ids, true), expected["decoded"][i].get<std::string>());
    }
  }
  EncodeOptions options;
  options.add_special_tokens = true;
  EXPECT_EQ(tokenizer->encode("Hello", options).ids, expected["special"].get<std::vector<TokenId>>());
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Variant,
                         testing::Values("base", "flags", "qwen", "gpt4o", "deepseek", "ignore_merges",
                                         "unknown", "prefix_space", "falcon", "starcoder", "words_prefixed",
                                         "merged_next", "merged_previous", "contiguous", "nfkd", "nfd",
                                         "trimmed"),
                         [](const auto& info) { return info.param; });

TEST(TokenizerReference, SentencePiece) {
  const auto tokenizer = load_sentencepiece();
  const Json& expected = fixture("expected.json").at("sentencepiece");
  const auto texts = strings();
  for (size_t i = 0; i < texts.size(); ++i) {
    // The reference library itself never looks for control tokens; user text is not searched for them either.
    const ByteRange all{0, texts[i].size()};
    EncodeOptions options;
    options.user_text = {&all, 1};
    const Encoding encoding = tokenizer->encode(texts[i], options);
    EXPECT_EQ(encoding.ids, expected["ids"][i].get<std::vector<TokenId>>()) << i << ": " << texts[i];
    EXPECT_EQ(tokenizer->decode(encoding.ids, true), expected["decoded"][i].get<std::string>());
    expect_ordered_offsets(encoding, texts[i]);
  }
}

// Texts and ids in the form of the llama.cpp project's vocabulary tests.
void check_vectors(const std::string& tokenizer_name, const std::string& vectors, bool special) {
  const fs::path shared = fs::path(ATTUNE_ROOT).parent_path() / "shared";
  const fs::path directory = shared / "tokenizers" / tokenizer_name;
  if (!fs::exists(directory) || !fs::exists(shared / "vectors" / (vectors + ".inp")))
    GTEST_SKIP() << "not here: " << directory;
  const auto tokenizer = Tokenizer::load(directory);
  const std::string input = read_file(shared / "vectors" / (vectors + ".inp"));
  std::istringstream output(read_file(shared / "vectors" / (vectors + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  EncodeOptions options;
  options.add_special_tokens = special;
  size_t checked = 0;
  for (size_t at = 0; at < input.size();) {
    const size_t end = std::min(input.find(separator, at), input.size());
    const std::string text = input.substr(at, end - at);
    at = end + separator.size();
    std::string line;
    if (!std::getline(output, line)) break;
    std::istringstream numbers(line);
    std::vector<TokenId> ids;
    for (TokenId id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer->encode(text, options).ids, ids) << text;
    ++checked;
  }
  EXPECT_GT(checked, 30u);
}

TEST(TokenizerReference, VectorsGpt2) {
  check_vectors("gpt2", "gpt-2", false);
}
TEST(TokenizerReference, VectorsQwen2) {
  check_vectors("qwen2", "qwen2", false);
}
TEST(TokenizerReference, VectorsLlama2) {
  check_vectors("llama2", "llama-spm", false);
}

}  // namespace
}  // namespace attune::text
