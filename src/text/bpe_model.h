// Byte pair encoding by rank: a vocabulary of tokens and the order in which pairs of them merge.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/word_cache.h"

namespace attune::text {

// Text ↔ id, dense by id. Built once, then read by many threads.
class Vocabulary {
 public:
  void reserve(size_t count);
  // False where the text or the id is taken already.
  bool add(std::string_view token, TokenId id);
  std::optional<TokenId> find(std::string_view token) const;
  // Empty where the id has no token.
  const std::string& token(TokenId id) const { return tokens_[static_cast<size_t>(id)]; }
  bool has(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens_.size() && used_[static_cast<size_t>(id)];
  }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  void grow(size_t slots);
  std::vector<std::string> tokens_;
  std::vector<bool> used_;
  std::vector<TokenId> slots_;
  size_t count_ = 0;
};

struct BpeOptions {
  std::optional<TokenId> unknown;
  bool fuse_unknown = false;
  bool ignore_merges = false;
};

class BpeModel {
 public:
  BpeModel();
  Vocabulary& vocabulary() { return vocabulary_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  BpeOptions& options() { return options_; }

  void reserve_merges(size_t count);
  // A later rule for the same pair replaces the earlier one.
  void add_merge(TokenId left, TokenId right, uint32_t rank, TokenId merged);
  // To be called once the vocabulary is complete. `forbidden` ids are never made by merging.
  void finish(const std::vector<TokenId>& forbidden);

  // Appends the tokens of one word (raw bytes).
  void encode_word(std::string_view word, std::vector<BpeToken>& out) const;

 private:
  struct Merge {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = 0;
    TokenId merged = -1;
  };
  const Merge* find_merge(TokenId left, TokenId right) const;
  void first_symbols(std::string_view word, std::vector<BpeToken>& out) const;
  void merge_short(BpeToken* symbols, size_t& count) const;
  void merge_long(std::vector<BpeToken>& symbols, size_t from) const;
  void encode_uncached(std::string_view word, std::vector<BpeToken>& out) const;

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::vector<Merge> merges_;
  size_t merge_count_ = 0;
  TokenId of_byte_[256];
  std::vector<bool> forbidden_;
  uint64_t instance_ = new_cache_instance();
};

}  // namespace attune::text
