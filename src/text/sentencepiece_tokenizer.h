// SentencePiece: BPE with byte fallback (Llama 1 and 2, Mistral, Yi, TinyLlama), where pieces merge by score,
// and Unigram.
#pragma once

#include <memory>
#include <unordered_map>

#include "text/added_tokens.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"
#include "text/unigram_model.h"
#include "text/word_model.h"

namespace attune::text {

struct TokenizerConfig;

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::filesystem::path& file, const TokenizerConfig& config);

  Encoding encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const override;
  std::string token_bytes(TokenId id) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::string id_to_token(TokenId id) const override;
  bool is_special(TokenId id) const override { return added_.is_special(id); }
  int64_t vocab_size() const override { return vocab_size_; }
  std::string first_token_bytes(TokenId id) const override;
  bool drops_all_first_spaces() const override { return model_.remove_extra_whitespaces; }
  bool replaces_each_byte() const override { return true; }

 private:
  struct Rewriter;
  void add_pieces();
  void add_tokens(const TokenizerConfig& config);
  void make_unigram();
  void set_prefix(const TokenizerConfig& config);
  void set_specials(const TokenizerConfig& config);
  const Section& normalized(const Section& section, bool with_prefix, Sections& sections) const;
  void encode_section(const Section& section, bool with_prefix, std::span<const ByteRange> user_text,
                      Sections& sections, Encoding& out) const;
  void encode_plain(const Section& section, ByteRange range, size_t section_begin, Encoding& out) const;
  void encode_word(std::string_view word, std::vector<WordToken>& out) const;
  void emit_symbol(std::string_view word, ByteRange range,
                   const std::unordered_map<std::string_view, size_t>& unmerge,
                   std::vector<WordToken>& out) const;
  TokenId mergeable(std::string_view piece) const;
  const std::string& token_text(TokenId id) const;
  bool is_byte(TokenId id) const;

  SentencePieceModel model_;
  Vocabulary vocabulary_;
  AddedTokens added_;
  std::deque<AddedToken> user_defined_;
  AddedTokenFinder find_user_defined_;
  std::vector<TokenId> before_, behind_;  // what a text is surrounded with
  // Where "▁" is put: before every stretch of text between control tokens, or before the first one only.
  enum class Prefix { never, first, always } prefix_ = Prefix::always;
  bool prefix_only_if_missing_ = false;
  bool strips_first_space_ = true;
  bool words_are_separate_ = true;  // BPE: no piece reaches over the space between two words
  TokenId of_byte_[256];
  TokenId unknown_ = 0;
  int64_t vocab_size_ = 0;
  std::optional<UnigramModel> unigram_;
  uint64_t instance_ = new_cache_instance();
};

}  // namespace attune::text
