// Byte pair encoding by rank: a vocabulary of tokens and the order in which pairs of them merge.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/word_model.h"

namespace attune::text {

// What a word consists of before merging.
enum class BpeSymbols {
  bytes,       // byte-level: the vocabulary writes bytes in the byte alphabet, words are raw bytes
  characters,  // the vocabulary holds the characters themselves
};

struct BpeOptions {
  BpeSymbols symbols = BpeSymbols::bytes;
  std::optional<TokenId> unknown;
  bool fuse_unknown = false;
  bool ignore_merges = false;
  // Of `characters` only: an unknown character becomes its bytes, <0x00> to <0xFF>.
  bool byte_fallback = false;
  std::string continuing_prefix, word_suffix;
};

class BpeModel final : public WordModel {
 public:
  BpeModel();
  BpeOptions& options() { return options_; }

  void reserve_merges(size_t count);
  // A later rule for the same pair replaces the earlier one.
  void add_merge(TokenId left, TokenId right, uint32_t rank, TokenId merged);
  void finish(const std::vector<TokenId>& forbidden) override;

  // The word is raw bytes (symbols: bytes) or valid UTF-8 (characters).
  void encode_word(std::string_view word, std::vector<WordToken>& out) const override;

 private:
  struct Merge {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = 0;
    TokenId merged = -1;
  };
  const Merge* find_merge(TokenId left, TokenId right) const;
  bool finds_words_apart() const;
  void byte_symbols(std::string_view word, std::vector<WordToken>& out) const;
  void character_symbols(std::string_view word, std::vector<WordToken>& out) const;
  bool fall_back(std::string_view character, uint32_t at, std::vector<WordToken>& out) const;
  void merge_short(WordToken* symbols, size_t& count) const;
  void merge_long(std::vector<WordToken>& symbols, size_t from) const;
  void encode_part(std::string_view part, std::vector<WordToken>& out) const;
  void encode_uncached(std::string_view part, std::vector<WordToken>& out) const;

  BpeOptions options_;
  std::vector<Merge> merges_;
  TokenId of_byte_[256];
  std::vector<bool> forbidden_;
  // No token reaches over the "▁" between two words, so a text may be cut there: the words are found again.
  bool words_apart_ = false;
  uint64_t instance_ = new_cache_instance();
};

}  // namespace attune::text
