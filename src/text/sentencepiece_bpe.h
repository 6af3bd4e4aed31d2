// SentencePiece BPE with byte fallback (Llama 1 and 2, Mistral, Yi, TinyLlama): pieces merge by score.
#pragma once

#include <memory>
#include <unordered_map>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/byte_level_bpe.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"
#include "text/word_cache.h"

namespace attune::text {

class SentencePieceBpe final : public Tokenizer {
 public:
  SentencePieceBpe(const std::filesystem::path& file, const TokenizerConfig& config,
                   const SentencePieceHints& hints);

  Encoding encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const override;
  std::string token_bytes(TokenId id) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::string id_to_token(TokenId id) const override;
  bool is_special(TokenId id) const override { return added_.is_special(id); }
  int64_t vocab_size() const override { return vocab_size_; }
  bool strips_first_space() const override { return strips_first_space_; }
  bool replaces_each_byte() const override { return true; }

 private:
  struct Symbols;
  void add_pieces();
  void add_tokens(const TokenizerConfig& config, const SentencePieceHints& hints);
  void set_prefix(const TokenizerConfig& config, const SentencePieceHints& hints);
  void set_specials(const TokenizerConfig& config, const SentencePieceHints& hints);
  const Section& normalized(const Section& section, bool with_prefix, Sections& sections) const;
  void encode_section(const Section& section, bool with_prefix, std::span<const ByteRange> user_text,
                      Sections& sections, Encoding& out) const;
  void encode_plain(const Section& section, ByteRange range, Encoding& out) const;
  void encode_word(std::string_view word, std::vector<BpeToken>& out) const;
  void emit_symbol(std::string_view word, ByteRange range,
                   const std::unordered_map<std::string_view, size_t>& unmerge,
                   std::vector<BpeToken>& out) const;
  TokenId mergeable(std::string_view piece) const;
  const std::string& token_text(TokenId id) const;
  bool is_byte(TokenId id) const;

  SentencePieceModel model_;
  Vocabulary vocabulary_;
  AddedTokens added_;
  std::deque<AddedToken> user_defined_;
  AddedTokenFinder find_user_defined_;
  Surround surround_;
  SentencePieceHints::Prefix prefix_ = SentencePieceHints::Prefix::always;
  bool prefix_only_if_missing_ = false;
  bool strips_first_space_ = true;
  bool words_are_separate_ = true;  // no piece reaches over the space between two words
  bool has_unused_ = false;
  TokenId of_byte_[256];
  TokenId unknown_ = 0;
  int64_t vocab_size_ = 0;
  uint64_t instance_ = new_cache_instance();
};

}  // namespace attune::text
