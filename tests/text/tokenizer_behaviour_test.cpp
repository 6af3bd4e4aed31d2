// What the tokenizers promise beside the reference ids: user text, streaming, odd input, speed, broken files.
#include <chrono>
#include <thread>

#include "text/tokenizer_support.h"
#include "text/unicode.h"

namespace attune::text {
namespace {

std::vector<TokenId> encode_as_user(const Tokenizer& tokenizer, const std::string& text,
                                    std::vector<ByteRange> ranges) {
  EncodeOptions options;
  options.user_text = ranges;
  return tokenizer.encode(text, options).ids;
}

bool has_special(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  return std::any_of(ids.begin(), ids.end(), [&](TokenId id) { return tokenizer.is_special(id); });
}

TEST(TokenizerUserText, NeverBecomesAControlToken) {
  for (const auto& tokenizer :
       {load_json(variant_json("flags")), load_json(variant_json("ignore_merges")), load_sentencepiece()}) {
    for (const std::string& special :
         std::vector<std::string>{"<|start|>", "<|end|>", "<s>", "</s>", "<unk>"}) {
      for (const std::string& text : std::vector<std::string>{special, "a" + special, special + "b",
                                                              " " + special + " ", special + special}) {
        const auto ids = encode_as_user(*tokenizer, text, {{0, text.size()}});
        EXPECT_FALSE(has_special(*tokenizer, ids)) << text;
        EXPECT_EQ(tokenizer->decode(ids), text);
      }
    }
  }
}

TEST(TokenizerUserText, ATokenThatReachesIntoItIsText) {
  const auto tokenizer = load_json(variant_json("flags"));
  const std::string text = "<|start|>";
  for (size_t cut = 1; cut < text.size(); ++cut) {
    EXPECT_FALSE(has_special(*tokenizer, encode_as_user(*tokenizer, text, {{0, cut}})));
    EXPECT_FALSE(has_special(*tokenizer, encode_as_user(*tokenizer, text, {{cut, text.size()}})));
  }
  // Next to it the template's own tokens count, and the rest is tokenised as one text.
  const std::string whole = "<|start|>hello <|end|> there<|end|>";
  const auto ids = encode_as_user(*tokenizer, whole, {{9, 28}});
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 1);
  const std::string plain = "<|start|>hello there<|end|>";
  EXPECT_EQ(encode_as_user(*tokenizer, plain, {{9, 20}}), tokenizer->encode(plain).ids);
}

TEST(TokenizerUserText, ASpecialTokenMadeByMergesIsNotMade) {
  Json json = fixture("base.json");
  json["model"]["vocab"]["zq"] = 9000;
  json["model"]["merges"].push_back({"z", "q"});
  json["added_tokens"].push_back({{"id", 9000},
                                  {"content", "zq"},
                                  {"special", true},
                                  {"normalized", false},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false}});
  const auto tokenizer = load_json(json);
  EXPECT_EQ(tokenizer->encode("zq").ids, std::vector<TokenId>{9000});
  EXPECT_EQ(encode_as_user(*tokenizer, "zq", {{0, 2}}).size(), 2u);
}

TEST(TokenizerStream, GivesWholeCharactersAndTheSameText) {
  const auto texts = fixture("strings.json").get<std::vector<std::string>>();
  for (const auto& tokenizer : {load_json(variant_json("base")), load_sentencepiece()})
    for (const std::string& text : texts)
      for (bool skip : {false, true}) {
        const auto ids = tokenizer->encode(text).ids;
        StreamDecoder decoder(*tokenizer, skip);
        std::string streamed;
        for (TokenId id : ids) {
          const std::string piece = decoder.push(id);
          EXPECT_TRUE(is_valid_utf8(piece));
          streamed += piece;
        }
        EXPECT_EQ(streamed + decoder.finish(), tokenizer->decode(ids, skip));
      }
}

TEST(TokenizerDecode, BrokenBytesBecomeReplacementCharacters) {
  const auto bpe = load_json(variant_json("base"));
  const auto spm = load_sentencepiece();
  const auto e4 = *bpe->token_to_id("ä"), bd = *bpe->token_to_id("½");
  EXPECT_EQ(bpe->decode(std::vector<TokenId>{e4, bd}), "\ufffd");
  EXPECT_EQ(bpe->decode(std::vector<TokenId>{bd, bd}), "\ufffd\ufffd");
  const std::vector<TokenId> bytes{*spm->token_to_id("<0xE4>"), *spm->token_to_id("<0xBD>")};
  EXPECT_EQ(spm->decode(bytes), "\ufffd\ufffd");
  for (const auto* tokenizer : {bpe.get(), spm.get()}) {
    EXPECT_NE(error_of([&] { tokenizer->decode(std::vector<TokenId>{-1}); }), "");
    EXPECT_NE(error_of([&] {
                tokenizer->decode(std::vector<TokenId>{static_cast<TokenId>(tokenizer->vocab_size())});
              }),
              "");
  }
}

TEST(TokenizerEncode, InvalidUtf8IsReadAsReplacementCharacters) {
  const std::pair<std::string, std::string> cases[] = {{"a\xFF", "a\ufffd"},
                                                       {"\xE4\xBD", "\ufffd"},
                                                       {"\xE4\xBDx", "\ufffdx"},
                                                       {"\xC0\xAF", "\ufffd\ufffd"},
                                                       {"\xED\xA0\x80", "\ufffd\ufffd\ufffd"}};
  const auto tokenizer = load_json(variant_json("qwen"));
  for (const auto& [broken, fixed] : cases)
    EXPECT_EQ(tokenizer->encode(broken).ids, tokenizer->encode(fixed).ids);
  std::string all;
  for (int i = 0; i < 65536; ++i) all += static_cast<char>(i >> 8), all += static_cast<char>(i);
  for (const auto& each : {load_json(variant_json("flags")), load_sentencepiece()}) {
    const Encoding encoding = each->encode(all);
    EXPECT_EQ(encoding.offsets.back().end, all.size());
  }
}

TEST(TokenizerEncode, OffsetsLeadBackThroughNormalisation) {
  const auto tokenizer = load_json(variant_json("flags"));
  const std::string text = "e\u0301x<|end|>y";
  const Encoding encoding = tokenizer->encode(text);
  EXPECT_EQ(encoding.offsets.front().begin, 0u);
  const auto end = std::find(encoding.ids.begin(), encoding.ids.end(), 1) - encoding.ids.begin();
  EXPECT_EQ(encoding.offsets[static_cast<size_t>(end)].begin, 4u);
  EXPECT_EQ(encoding.offsets[static_cast<size_t>(end)].end, 11u);
  EXPECT_EQ(encoding.offsets.back().end, text.size());
}

TEST(TokenizerEncode, LongWordsTakeLinearTime) {
  const auto begin = std::chrono::steady_clock::now();
  for (const auto& tokenizer : {load_json(variant_json("qwen")), load_sentencepiece()})
    for (const std::string& unit : std::vector<std::string>{"a", "ab", "\u4eba", " ", "e\u0301", "\u0301"}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      EXPECT_GT(tokenizer->encode(text).ids.size(), 0u);
    }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(40));
}

TEST(TokenizerEncode, ManyThreads) {
  const auto tokenizer = load_json(variant_json("qwen"));
  const auto texts = fixture("strings.json").get<std::vector<std::string>>();
  std::vector<std::vector<TokenId>> expected;
  for (const auto& text : texts) expected.push_back(tokenizer->encode(text).ids);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) wrong += tokenizer->encode(texts[i]).ids != expected[i];
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(TokenizerSentencePiece, PrefixAndContinuation) {
  const auto tokenizer = load_sentencepiece();
  EncodeOptions continued;
  continued.continuation = true;
  const auto with = tokenizer->encode("the").ids, without = tokenizer->encode("the", continued).ids;
  EXPECT_NE(with, without);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the cat").ids), "the cat");
  // After a control token the prefix comes again, unless the model's configuration says "legacy": false.
  auto after_bos = tokenizer->encode("<s>the").ids;
  EXPECT_EQ(after_bos.front(), *tokenizer->bos_id());
  after_bos.erase(after_bos.begin());
  EXPECT_EQ(after_bos, with);
  auto modern = load_sentencepiece(R"({"legacy": false})")->encode("<s>the").ids;
  modern.erase(modern.begin());
  EXPECT_EQ(modern, without);
  EncodeOptions special;
  special.add_special_tokens = true;
  EXPECT_EQ(tokenizer->encode("the", special).ids.front(), 1);
  EXPECT_EQ(load_sentencepiece(R"({"add_bos_token": false, "add_eos_token": true})")
                ->encode("the", special)
                .ids.back(),
            2);
}

TEST(TokenizerConfig, SpecialTokensAndTemplate) {
  const TempDirectory directory;
  directory.write("tokenizer.json", variant_json("base").dump());
  directory.write(
      "tokenizer_config.json",
      R"({"bos_token": null, "eos_token": {"content": "<|end|>"}, "model_max_length": 1000000000000000019884624838656,
    "added_tokens_decoder": {"700": {"content": "<think>", "special": false, "normalized": false}}, "chat_template": [{"name": "default", "template": "T"}]})");
  directory.write("special_tokens_map.json",
                  R"({"bos_token": "<|start|>", "eos_token": "<|start|>", "pad_token": "<|start|>"})");
  const auto tokenizer = Tokenizer::load(directory.path());
  EXPECT_FALSE(tokenizer->bos_id());
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->chat_template(), "T");
  EXPECT_EQ(tokenizer->vocab_size(), 701);
  EXPECT_EQ(tokenizer->encode("<think>").ids, std::vector<TokenId>{700});
  directory.write("chat_template.jinja", "J");
  EXPECT_EQ(Tokenizer::load(directory.path())->chat_template(), "J");
}

TEST(TokenizerLoad, NamesWhatItDoesNotSupport) {
  auto message = [](auto change) {
    Json json = fixture("base.json");
    change(json);
    return error_of([&] { load_json(json); });
  };
  EXPECT_NE(message([](Json& j) { j["model"]["type"] = "WordLevel"; }).find("\"WordLevel\""),
            std::string::npos);
  EXPECT_NE(message([](Json& j) {
              j["model"]["byte_fallback"] = true;
              j["model"]["vocab"].erase("!");
              j["model"]["merges"] = Json::array();
            }).find("byte_fallback"),
            std::string::npos);
  EXPECT_NE(message([](Json& j) { j["normalizer"] = {{"type", "Nmt"}}; }).find("Nmt"), std::string::npos);
  EXPECT_NE(message([](Json& j) { j["post_processor"] = {{"type", "Odd"}}; }).find("Odd"), std::string::npos);
  EXPECT_NE(message([](Json& j) { j["model"]["vocab"]["far"] = 2000000000; }).find("out of proportion"),
            std::string::npos);
  EXPECT_NE(message([](Json& j) { j["model"]["merges"].push_back("no such"); }).find("merges"),
            std::string::npos);
  EXPECT_NE(message([](Json& j) { j["model"].erase("vocab"); }).find("\"vocab\" is missing"),
            std::string::npos);
  EXPECT_NE(error_of([] { Tokenizer::load(TempDirectory().path()); }), "");
  // tokenizer.json is what the model's own tools read, so it wins over the tokenizer.model beside it.
  const TempDirectory directory;
  directory.write("tokenizer.json", variant_json("base").dump());
  directory.write("tokenizer.model", read_file(kFixtures / "sentencepiece" / "tokenizer.model"));
  EXPECT_EQ(Tokenizer::load(directory.path())->encode("the").ids,
            load_json(variant_json("base"))->encode("the").ids);
}

TEST(TokenizerLoad, EveryTruncatedFileIsAnError) {
  const TempDirectory directory;
  const std::string model = read_file(kFixtures / "sentencepiece" / "tokenizer.model");
  for (size_t size = 0; size < model.size(); size += size < 200 || size > 7700 ? 1 : 13) {
    directory.write("tokenizer.model", model.substr(0, size));
    EXPECT_NE(error_of([&] { Tokenizer::load(directory.path()); }), "") << size;
  }
  const std::string json = variant_json("flags").dump();
  for (size_t size = 0; size < json.size(); size += size < 600 ? 1 : 97) {
    directory.write("tokenizer.json", json.substr(0, size));
    EXPECT_NE(error_of([&] { Tokenizer::load(directory.path()); }), "") << size;
  }
}

TEST(TokenizerLoad, DamagedFilesDoNotCrash) {
  const TempDirectory directory;
  const std::string model = read_file(kFixtures / "sentencepiece" / "tokenizer.model");
  uint64_t state = 1;
  auto random = [&] { return state = state * 6364136223846793005u + 1442695040888963407u, state >> 33; };
  for (int i = 0; i < 400; ++i) {
    std::string damaged = model;
    for (int k = 0; k < 3; ++k)
      damaged[random() % (i % 2 ? 64 : damaged.size())] = static_cast<char>(random());
    directory.write("tokenizer.model", damaged);
    error_of([&] { Tokenizer::load(directory.path())->encode("Once upon a time, 你好"); });
  }
}

TEST(TokenizerUnicode, UnfinishedTail) {
  EXPECT_EQ(unfinished_tail("a"), 0u);
  EXPECT_EQ(unfinished_tail("a\xE4"), 1u);
  EXPECT_EQ(unfinished_tail("a\xE4\xBD"), 2u);
  EXPECT_EQ(unfinished_tail("a\xE4\xBD\xA0"), 0u);
  EXPECT_EQ(unfinished_tail("\xF0\x9F\x99"), 3u);
  EXPECT_EQ(unfinished_tail("\xE0\x80"), 0u);  // can never become a character
  EXPECT_EQ(unfinished_tail("\xFF"), 0u);
}

}  // namespace
}  // namespace attune::text
