#include "text/tokenizer.h"

#include "text/byte_level_bpe.h"
#include "text/sentencepiece_bpe.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"
#include "util/error.h"
#include "util/files.h"

namespace attune::text {

std::unique_ptr<Tokenizer> Tokenizer::load(const fs::path& directory) {
  if (!fs::is_directory(directory)) refuse("{}: is not a directory with a tokenizer", directory.string());
  const TokenizerConfig config = TokenizerConfig::read(directory);
  const fs::path json = directory / "tokenizer.json", model = directory / "tokenizer.model";
  SentencePieceHints hints;
  if (fs::exists(json)) {
    std::string reason;
    if (auto tokenizer = ByteLevelBpe::load(json, config, reason, hints)) return tokenizer;
    if (!fs::exists(model))
      refuse(
          "{}: {} is not supported: only byte-level BPE is read from this file, and there is no "
          "tokenizer.model "
          "(SentencePiece BPE) beside it",
          json.string(), reason);
  }
  if (fs::exists(model)) return std::make_unique<SentencePieceBpe>(model, config, hints);
  refuse("{}: no tokenizer found, expected tokenizer.json or tokenizer.model", directory.string());
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_(skip_special_tokens) {}

std::string StreamDecoder::push(TokenId id) {
  std::string bytes = tokenizer_.token_bytes(id);  // also refuses unknown ids
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  if (first_ && !bytes.empty()) {
    first_ = false;
    if (tokenizer_.strips_first_space() && bytes[0] == ' ') bytes.erase(0, 1);
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
