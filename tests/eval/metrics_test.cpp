// Scores against the packages that people compare with (tools/reference/metric_fixtures.py), and at the edges.
#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "util/json.h"

namespace attune::eval {
namespace {

TEST(Metrics, AgreeWithTheReferencePackages) {
  const Json fixture = read_json(std::filesystem::path(ATTUNE_FIXTURES) / "eval/metrics.json");
  CorpusBleu corpus;
  ASSERT_GE(fixture["pairs"].size(), 20u);
  for (const Json& row : fixture["pairs"]) {
    const auto p = row["prediction"].get<std::string>(), r = row["reference"].get<std::string>();
    SCOPED_TRACE(p + " / " + r);
    const Rouge scores = rouge(p, r);
    EXPECT_NEAR(token_f1(p, r), row["f1"].get<double>(), 1e-6);
    EXPECT_NEAR(scores.rouge_1, row["rouge_1"].get<double>(), 1e-6);
    EXPECT_NEAR(scores.rouge_2, row["rouge_2"].get<double>(), 1e-6);
    EXPECT_NEAR(scores.rouge_l, row["rouge_l"].get<double>(), 1e-6);
    EXPECT_NEAR(sentence_bleu_4(p, r), row["sentence_bleu_4"].get<double>(), 1e-6);
    corpus.add(p, r);
  }
  EXPECT_NEAR(corpus.score(), fixture["corpus_bleu"].get<double>(), 1e-6);
}

TEST(Metrics, ExactMatchSeesAllButSurroundingSpace) {
  EXPECT_TRUE(exact_match(" yes\n", "yes"));
  EXPECT_FALSE(exact_match("Yes", "yes"));
  EXPECT_FALSE(exact_match("y es", "yes"));
  EXPECT_TRUE(exact_match("", " "));
}

TEST(Metrics, TokensAreWordsAndCjkCharacters) {
  EXPECT_EQ(words("Qwen2模型, it's OK"), (Tokens{"qwen2", "模", "型", "it", "s", "ok"}));
  EXPECT_EQ(answer_tokens("The cat's 病，a"), (Tokens{"cats", "病"}));
  EXPECT_EQ(bleu_tokens("It's 病。"), (Tokens{"It", "'", "s", "病", "。"}));
  EXPECT_EQ(characters("a 病"), (Tokens{"a", " ", "病"}));
}

TEST(Metrics, EqualTextsScoreOneAndNothingScoresZero) {
  for (const char* text : {"the cat sat on the mat today", "患者应当多喝水注意休息"}) {
    CorpusBleu bleu;
    bleu.add(text, text);
    EXPECT_NEAR(bleu.score(), 1, 1e-12);
    EXPECT_NEAR(sentence_bleu_4(text, text), 1, 1e-12);
    EXPECT_NEAR(rouge(text, text).rouge_l, 1, 1e-12);
    EXPECT_EQ(sentence_bleu_4("", text), 0);
    EXPECT_EQ(rouge("", text).rouge_1, 0);
  }
  EXPECT_EQ(CorpusBleu().score(), 0);
  // Bytes that are no UTF-8 are characters of their own; nothing reads past the end.
  EXPECT_GT(token_f1("\xE7\x97", "\xE7\x97"), 0.9);
}

}  // namespace
}  // namespace attune::eval
