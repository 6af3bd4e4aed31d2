// What cuts one word into tokens: BPE, Unigram or WordPiece over a vocabulary.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "util/hash.h"

namespace attune::text {

// A token and the bytes of the word it covers.
struct WordToken {
  TokenId id;
  uint32_t begin;
  uint32_t bytes;
};

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

class WordModel {
 public:
  virtual ~WordModel() = default;
  Vocabulary& vocabulary() { return vocabulary_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // To be called once the vocabulary is complete. `forbidden` ids are never made out of text.
  virtual void finish(const std::vector<TokenId>& forbidden) = 0;
  // Appends the tokens of one word. Many threads may do so at once.
  virtual void encode_word(std::string_view word, std::vector<WordToken>& out) const = 0;

 protected:
  Vocabulary vocabulary_;
};

// "<0x0A>" → 10; -1 for any other text. As the reference library, hexadecimal digits of both cases count.
int byte_of_token(std::string_view token);
// The ids of <0x00> to <0xFF>; -1 where the vocabulary has none.
void find_byte_tokens(const Vocabulary& vocabulary, TokenId (&of_byte)[256]);

// Tells the entries of one model from those of another.
inline uint64_t new_cache_instance() {
  static std::atomic<uint64_t> next{1};
  return next++;
}

struct WordCacheEntry {
  uint64_t instance = 0;
  uint8_t length = 0, count = 0;
  char word[30];
  TokenId ids[8];
  uint8_t begins[8], bytes[8];
};

// Words repeat: each thread keeps the tokens of the latest words it has seen, one word per slot. Appends the
// tokens of `word` to `out`; `encode()` does so where they are not known.
template <class Encode>
void with_word_cache(uint64_t instance, std::string_view word, std::vector<WordToken>& out, Encode encode) {
  constexpr size_t kSlots = 1 << 14;
  if (word.size() > sizeof WordCacheEntry::word) return encode();
  thread_local std::vector<WordCacheEntry> cache(kSlots);
  WordCacheEntry& entry = cache[hash64(word, instance) & (kSlots - 1)];
  if (entry.instance == instance && entry.length == word.size() &&
      std::memcmp(entry.word, word.data(), word.size()) == 0) {
    for (size_t i = 0; i < entry.count; ++i) out.push_back({entry.ids[i], entry.begins[i], entry.bytes[i]});
    return;
  }
  const size_t from = out.size();
  encode();
  if (out.size() - from > std::size(entry.ids)) return;
  entry.instance = instance;
  entry.length = static_cast<uint8_t>(word.size());
  entry.count = static_cast<uint8_t>(out.size() - from);
  std::memcpy(entry.word, word.data(), word.size());
  for (size_t i = 0; i < entry.count; ++i) {
    entry.ids[i] = out[from + i].id;
    entry.begins[i] = static_cast<uint8_t>(out[from + i].begin);
    entry.bytes[i] = static_cast<uint8_t>(out[from + i].bytes);
  }
}

}  // namespace attune::text
