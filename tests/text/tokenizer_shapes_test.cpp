// tokenizer.json in its many shapes and SentencePiece models with rewriting rules: the reference libraries'
// ids and texts, streaming, user text, speed, damaged files.
#include <chrono>

#include "text/charsmap.h"
#include "text/tokenizer_support.h"
#include "text/unicode.h"

namespace attune::text {
namespace {

const Json& shapes() {
  return fixture("shapes.json");
}

Json shape_json(const std::string& name) {
  Json json = shapes()["shapes"].at(name).at("json");
  for (const char* key : {"vocab", "merges"})
    if (json["model"].contains(key))
      json["model"][key] = shapes()["shared"].at(json["model"][key].get<std::string>());
  return json;
}

bool is_sentencepiece(const std::string& name) {
  return name.starts_with("spm_");
}

std::unique_ptr<Tokenizer> load_shape(const std::string& name) {
  if (!is_sentencepiece(name)) return load_json(shape_json(name));
  const TempDirectory directory;
  directory.write("tokenizer.model", read_file(kFixtures / "sentencepiece" / (name.substr(4) + ".model")));
  return Tokenizer::load(directory.path());
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& [name, row] : shapes()["shapes"].items()) out.push_back(name);
  return out;
}

class Shape : public testing::TestWithParam<std::string> {};

TEST_P(Shape, GivesTheReferenceIdsAndTexts) {
  const auto tokenizer = load_shape(GetParam());
  const Json& row = shapes()["shapes"].at(GetParam());
  const Json& texts = row.contains("texts") ? row["texts"] : shapes()["texts"];
  EncodeOptions options;
  options.add_special_tokens = !is_sentencepiece(GetParam());
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text = texts[i];
    const Encoding encoding = tokenizer->encode(text, options);
    const auto expected = row["ids"][i].get<std::vector<TokenId>>();
    EXPECT_EQ(encoding.ids, expected) << text;
    ASSERT_EQ(encoding.ids.size(), encoding.offsets.size());
    for (const ByteRange& range : encoding.offsets) {
      EXPECT_LE(range.begin, range.end);
      EXPECT_LE(range.end, text.size());
    }
    if (row["decoded"].empty()) continue;
    std::vector<TokenId> known;  // SentencePiece's texts were decoded without the unknown token
    for (TokenId id : expected)
      if (!is_sentencepiece(GetParam()) || id != 0) known.push_back(id);
    EXPECT_EQ(tokenizer->decode(known), row["decoded"][i].get<std::string>()) << text;
  }
}

TEST_P(Shape, StreamsTheSameText) {
  const auto tokenizer = load_shape(GetParam());
  for (const Json& text : shapes()["texts"]) {
    const auto ids = tokenizer->encode(text.get<std::string>()).ids;
    StreamDecoder decoder(*tokenizer, false);
    std::string streamed;
    for (TokenId id : ids) {
      const std::string piece = decoder.push(id);
      EXPECT_TRUE(is_valid_utf8(piece));
      streamed += piece;
    }
    EXPECT_EQ(streamed + decoder.finish(), tokenizer->decode(ids)) << text;
  }
}

TEST_P(Shape, NeverMakesAControlTokenOfUserText) {
  const auto tokenizer = load_shape(GetParam());
  for (const char* special : {"<s>", "</s>", "[CLS]", "[SEP]", "[MASK]", "<|user|>"})
    for (const std::string& text :
         {std::string(special), " " + std::string(special) + "x", special + std::string(special)}) {
      const ByteRange all{0, text.size()};
      EncodeOptions options;
      options.user_text = {&all, 1};
      for (TokenId id : tokenizer->encode(text, options).ids)
        EXPECT_FALSE(tokenizer->is_special(id) && tokenizer->id_to_token(id) == special) << text;
    }
}

TEST_P(Shape, TakesLinearTimeOnOneLongWord) {
  const auto tokenizer = load_shape(GetParam());
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& unit : std::vector<std::string>{"a", "\u4eba", " ", "e\u0301"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    tokenizer->encode(text);
  }
  // Quadratic time would be hours.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(120));
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Shape, testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(TokenizerShapes, ContinuationPutsNothingBeforeTheText) {
  for (const char* name :
       {"llama2", "metaspace_first", "metaspace_always_split", "unigram_nmt_nfkc", "spm_uni_nmt_nfkc"}) {
    const auto tokenizer = load_shape(name);
    EncodeOptions continued;
    continued.continuation = true;
    const auto with = tokenizer->encode("the").ids, without = tokenizer->encode("the", continued).ids;
    EXPECT_NE(with, without) << name;
    EXPECT_TRUE(tokenizer->id_to_token(with.at(0)).starts_with("\u2581")) << name;
    EXPECT_FALSE(tokenizer->id_to_token(without.at(0)).starts_with("\u2581")) << name;
  }
}

TEST(TokenizerShapes, OffsetsLeadBackThroughRewritingRules) {
  const std::string text = "\u00ad\uff21 x";  // deleted, full width
  const Encoding encoding = load_shape("unigram_nmt_nfkc")->encode(text);
  EXPECT_EQ(encoding.offsets.front().begin, 0u);
  EXPECT_EQ(encoding.offsets.back().end, text.size());
}

TEST(TokenizerShapes, NamesWhatItDoesNotSupport) {
  auto message = [](const char* name, auto change) {
    Json json = shape_json(name);
    change(json);
    return error_of([&] { load_json(json)->encode("\u2603 x"); });
  };
  auto expect = [](const std::string& got, const std::string& part) {
    EXPECT_NE(got.find(part), std::string::npos) << got;
  };
  expect(message("llama2", [](Json& j) { j["decoder"] = {{"type", "CTC"}}; }), "decoder type \"CTC\"");
  expect(message("llama2", [](Json& j) { j["model"]["type"] = "WordLevel"; }), "model type \"WordLevel\"");
  expect(message("llama2",
                 [](Json& j) {
                   j["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
                 }),
         "\"UnicodeScripts\"");
  expect(message("metaspace_first", [](Json& j) { j["pre_tokenizer"]["prepend_scheme"] = "last"; }),
         "\"last\"");
  expect(message("unigram_nmt_nfkc", [](Json& j) { j["model"]["unk_id"] = nullptr; }), "no unknown token");
  expect(message("unigram_nmt_nfkc", [](Json& j) { j["model"]["unk_id"] = 100000; }), "unk_id");
  expect(message("unigram_nmt_nfkc", [](Json& j) { j["model"]["vocab"][5] = {"x"}; }), "vocab[5]");
  expect(message("unigram_nmt_nfkc",
                 [](Json& j) { j["normalizer"]["normalizers"][0]["precompiled_charsmap"] = "AAAAAQ=="; }),
         "precompiled_charsmap");
  expect(message("bert_lower", [](Json& j) { j["model"].erase("unk_token"); }), "unk_token");
}

TEST(TokenizerShapes, AnyCharsmapIsReadWithoutReachingOutside) {
  uint64_t state = 7;
  auto random = [&] { return state = state * 6364136223846793005u + 1442695040888963407u, state >> 33; };
  for (int i = 0; i < 2000; ++i) {
    std::string blob{64, 0, 0, 0};
    while (blob.size() < 68) blob += static_cast<char>(random() % (i % 3 ? 256 : 8));
    blob += std::string("ab\0c\0", 5);
    const Charsmap map(blob, "test");
    for (int k = 0; k < 20; ++k) {
      std::string text;
      for (int c = 0; c < 6; ++c) text += static_cast<char>(random() % 128);
      EXPECT_LE(map.longest(text).bytes, text.size());
      Sections sections;
      map.apply_by_grapheme(valid_section(text, sections), sections);
    }
  }
}

TEST(TokenizerBert, VocabTxtMeansTheBertPipeline) {
  const TempDirectory directory;
  directory.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##aff\n##able\nhello\n,\n\u4eba\n");
  EncodeOptions options;
  options.add_special_tokens = true;
  const auto tokenizer = Tokenizer::load(directory.path());
  EXPECT_EQ(tokenizer->encode("Unaffable, H\u00e9llo\u4eba zzz", options).ids,
            (std::vector<TokenId>{2, 5, 6, 7, 9, 8, 10, 1, 3}));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{5, 6, 7, 9, 8}), "unaffable, hello");
  EXPECT_EQ(tokenizer->pad_id(), 0);
  directory.write("tokenizer_config.json", R"({"do_lower_case": false})");
  EXPECT_EQ(Tokenizer::load(directory.path())->encode("Hello hello").ids, (std::vector<TokenId>{1, 8}));
  directory.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n");
  EXPECT_NE(error_of([&] { Tokenizer::load(directory.path()); }).find("[SEP]"), std::string::npos);
}

}  // namespace
}  // namespace attune::text
