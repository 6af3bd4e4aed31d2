// Words repeat: each thread keeps the tokens of the latest words it has seen, one word per slot.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "util/hash.h"

namespace attune::text {

// A token and the bytes of the word it covers.
struct BpeToken {
  TokenId id;
  uint32_t begin;
  uint32_t bytes;
};

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

// Appends the tokens of `word` to `out`; `encode()` does so where they are not known.
template <class Encode>
void with_word_cache(uint64_t instance, std::string_view word, std::vector<BpeToken>& out, Encode encode) {
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
