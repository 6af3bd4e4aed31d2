#include "text/bpe_trainer.h"
#include "text/tokenizer_support.h"

namespace attune::text {
namespace {

BpeTrainerOptions small(WordPattern pattern) {
  BpeTrainerOptions options;
  options.vocab_size = 600;
  options.pattern = pattern;
  options.eos_token = "<|im_end|>";
  options.pad_token = "<|endoftext|>";
  return options;
}

TEST(TokenizerTrainer, MergesAsTheReferenceTrainer) {
  for (const auto& [pattern, name] :
       {std::pair{WordPattern::gpt2, "gpt2"}, std::pair{WordPattern::qwen2, "qwen2"}}) {
    const TempDirectory directory;
    train_byte_level_bpe({kFixtures / "corpus.txt"}, small(pattern), directory.path());
    const Json json = read_json(directory.path() / "tokenizer.json");
    EXPECT_EQ(json["model"]["merges"], fixture("trained.json").at(name));
  }
}

TEST(TokenizerTrainer, OutputLoadsAndIsTheSameEachTime) {
  const TempDirectory one, two;
  const auto result = train_byte_level_bpe({kFixtures / "corpus.txt"}, small(WordPattern::qwen2), one.path());
  train_byte_level_bpe({kFixtures / "corpus.txt"}, small(WordPattern::qwen2), two.path());
  EXPECT_EQ(read_file(one.path() / "tokenizer.json"), read_file(two.path() / "tokenizer.json"));
  const auto tokenizer = Tokenizer::load(one.path());
  EXPECT_EQ(tokenizer->vocab_size(), result.vocab_size);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_FALSE(tokenizer->bos_id());
  const std::string text = "人工智能 can write <|im_end|> code. 🙂\n";
  const auto ids = tokenizer->encode(text).ids;
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
}

TEST(TokenizerTrainer, RefusesOptionsThatCannotWork) {
  const TempDirectory directory;
  auto message = [&](auto change) {
    BpeTrainerOptions options = small(WordPattern::gpt2);
    change(options);
    return error_of([&] { train_byte_level_bpe({kFixtures / "corpus.txt"}, options, directory.path()); });
  };
  EXPECT_NE(message([](auto& o) { o.vocab_size = 100; }).find("vocab_size"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.eos_token = "</s>"; }).find("</s>"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.special_tokens = {"<a>", "<a>"}; }), "");
  EXPECT_NE(message([](auto& o) { o.special_tokens = {"!"}; }), "");
}

}  // namespace
}  // namespace attune::text
