#include "text/tokenizer.h"

#include "text/pipeline_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"
#include "util/error.h"
#include "util/files.h"

namespace attune::text {

std::unique_ptr<Tokenizer> Tokenizer::load(const fs::path& directory) {
  if (!fs::is_directory(directory)) refuse("{}: is not a directory with a tokenizer", directory.string());
  const TokenizerConfig config = TokenizerConfig::read(directory);
  const fs::path json = directory / "tokenizer.json", model = directory / "tokenizer.model",
                 vocab = directory / "vocab.txt";
  if (fs::exists(json)) return PipelineTokenizer::load_json(json, config);
  if (fs::exists(model)) return std::make_unique<SentencePieceTokenizer>(model, config);
  if (fs::exists(vocab)) return PipelineTokenizer::load_bert(vocab, config);
  refuse("{}: no tokenizer found, expected tokenizer.json, tokenizer.model or vocab.txt (BERT)",
         directory.string());
}

bool Tokenizer::found_in(const fs::path& directory) {
  return fs::exists(directory / "tokenizer.json") || fs::exists(directory / "tokenizer.model") || fs::exists(directory / "vocab.txt");
}

std::vector<fs::path> Tokenizer::files(const fs::path& directory) {
  std::vector<fs::path> out;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "generation_config.json", "chat_template.jinja"})
    if (fs::exists(directory / name)) out.push_back(directory / name);
  return out;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_(skip_special_tokens) {}

std::string StreamDecoder::push(TokenId id) {
  std::string bytes = tokenizer_.token_bytes(id);  // also refuses unknown ids
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  if (first_ && !bytes.empty()) {
    bytes = tokenizer_.first_token_bytes(id);
    first_ = bytes.empty() && tokenizer_.drops_all_first_spaces();
  }
  pending_ += bytes;
  const size_t ready = pending_.size() - unfinished_tail(pending_);
  std::string out =
      to_valid_utf8(std::string_view(pending_).substr(0, ready),
                    tokenizer_.replaces_each_byte() ? Replacement::per_byte : Replacement::per_sequence);
  pending_.erase(0, ready);
  return out;
}

std::string StreamDecoder::finish() {
  const std::string out = to_valid_utf8(
      pending_, tokenizer_.replaces_each_byte() ? Replacement::per_byte : Replacement::per_sequence);
  pending_.clear();
  first_ = true;
  return out;
}

}  // namespace attune::text
