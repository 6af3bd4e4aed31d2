#include "text/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>

#include "text/pre_tokenizer.h"
#include "text/space_mark.h"
#include "text/unicode.h"

namespace attune::text {
namespace {

constexpr size_t kShortWord = 64;  // below this scanning all pairs beats a heap
constexpr uint32_t kNoRank = UINT32_MAX;

uint64_t pair_key(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

size_t pair_slot(uint64_t key, size_t mask) {
  key *= 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(key ^ (key >> 29)) & mask;
}

}  // namespace

BpeModel::BpeModel() {
  std::fill(std::begin(of_byte_), std::end(of_byte_), -1);
}

void BpeModel::reserve_merges(size_t count) {
  merges_.assign(std::bit_ceil(count * 2 + 16), Merge{});
}

void BpeModel::add_merge(TokenId left, TokenId right, uint32_t rank, TokenId merged) {
  const uint64_t key = pair_key(left, right);
  const size_t mask = merges_.size() - 1;
  size_t slot = pair_slot(key, mask);
  while (merges_[slot].merged >= 0 && merges_[slot].pair != key) slot = (slot + 1) & mask;
  merges_[slot] = {key, rank, merged};
}

void BpeModel::finish(const std::vector<TokenId>& forbidden) {
  if (merges_.empty()) reserve_merges(0);
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  if (options_.symbols == BpeSymbols::characters)
    find_byte_tokens(vocabulary_, of_byte_);
  else
    for (size_t byte = 0; byte < 256; ++byte)
      of_byte_[byte] = vocabulary_.find(alphabet.of_byte[byte]).value_or(-1);
  forbidden_.assign(static_cast<size_t>(vocabulary_.size()), false);
  for (TokenId id : forbidden)
    if (id >= 0 && id < vocabulary_.size()) forbidden_[static_cast<size_t>(id)] = true;
  for (Merge& merge : merges_)
    if (merge.merged >= 0 && forbidden_[static_cast<size_t>(merge.merged)]) merge.rank = kNoRank;
  words_apart_ = finds_words_apart();
}

const BpeModel::Merge* BpeModel::find_merge(TokenId left, TokenId right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = merges_.size() - 1;
  for (size_t slot = pair_slot(key, mask); merges_[slot].merged >= 0; slot = (slot + 1) & mask)
    if (merges_[slot].pair == key) return merges_[slot].rank == kNoRank ? nullptr : &merges_[slot];
  return nullptr;
}

// Whether cutting before every "▁" that follows something else changes nothing: "▁" is a known symbol (it
// ends a run of unknown ones), and no merge makes a token with "▁" behind something else.
bool BpeModel::finds_words_apart() const {
  if (options_.symbols != BpeSymbols::characters || options_.ignore_merges || !vocabulary_.find(kSpaceMark) ||
      !options_.continuing_prefix.empty() || !options_.word_suffix.empty())
    return false;
  return std::none_of(merges_.begin(), merges_.end(), [&](const Merge& merge) {
    return merge.merged >= 0 && reaches_over_words(vocabulary_.token(merge.merged));
  });
}

// A byte without token becomes the unknown token, or vanishes where the model has none.
void BpeModel::byte_symbols(std::string_view word, std::vector<WordToken>& out) const {
  bool last_unknown = false;
  for (uint32_t at = 0; at < word.size(); ++at) {
    const TokenId id = of_byte_[static_cast<uint8_t>(word[at])];
    if (id >= 0) {
      out.push_back({id, at, 1});
    } else if (options_.unknown) {
      if (last_unknown && options_.fuse_unknown)
        ++out.back().bytes;
      else
        out.push_back({*options_.unknown, at, 1});
    }
    last_unknown = id < 0;
  }
}

// All bytes of an unknown character as tokens, or false where one of them has none.
bool BpeModel::fall_back(std::string_view character, uint32_t at, std::vector<WordToken>& out) const {
  if (!options_.byte_fallback) return false;
  for (char c : character)
    if (of_byte_[static_cast<uint8_t>(c)] < 0) return false;
  for (uint32_t i = 0; i < character.size(); ++i)
    out.push_back({of_byte_[static_cast<uint8_t>(character[i])], at + i, 1});
  return true;
}

// As the reference library: an unknown symbol waits for the next known one, so bytes may overtake it.
void BpeModel::character_symbols(std::string_view word, std::vector<WordToken>& out) const {
  std::optional<WordToken> unknown;
  auto flush = [&] {
    if (unknown) out.push_back(*unknown);
    unknown.reset();
  };
  const bool decorated = !options_.continuing_prefix.empty() || !options_.word_suffix.empty();
  std::string symbol;
  for (uint32_t at = 0; at < word.size();) {
    const uint32_t bytes = code_point_at(word, at).bytes, begin = at;
    at += bytes;
    std::string_view text = word.substr(begin, bytes);
    if (decorated) {
      symbol = begin ? options_.continuing_prefix : "";
      symbol += text;
      if (at == word.size()) symbol += options_.word_suffix;
      text = symbol;
    }
    const auto id = vocabulary_.find(text);
    if (id && !forbidden_[static_cast<size_t>(*id)]) {
      flush();
      out.push_back({*id, begin, bytes});
    } else if (!fall_back(text, begin, out) && options_.unknown) {
      if (unknown && options_.fuse_unknown) {
        unknown->bytes += bytes;
      } else {
        flush();
        unknown = WordToken{*options_.unknown, begin, bytes};
      }
    }
  }
  flush();
}

void BpeModel::merge_short(WordToken* symbols, size_t& count) const {
  const Merge* rules[kShortWord];
  auto rule = [&](size_t i) { return find_merge(symbols[i].id, symbols[i + 1].id); };
  for (size_t i = 0; i < count; ++i) rules[i] = i + 1 < count ? rule(i) : nullptr;
  while (count > 1) {
    size_t best = count;
    uint32_t rank = kNoRank;
    for (size_t i = 0; i + 1 < count; ++i)
      if (rules[i] && rules[i]->rank < rank) rank = rules[i]->rank, best = i;
    if (best == count) return;
    symbols[best].id = rules[best]->merged;
    symbols[best].bytes = symbols[best + 1].begin + symbols[best + 1].bytes - symbols[best].begin;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    std::copy(rules + best + 2, rules + count, rules + best + 1);
    --count;
    rules[best] = best + 1 < count ? rule(best) : nullptr;
    if (best > 0) rules[best - 1] = rule(best - 1);
  }
}

// The same by a heap of candidate pairs: n log n for words of any length.
void BpeModel::merge_long(std::vector<WordToken>& symbols, size_t from) const {
  struct Candidate {
    uint32_t rank, left;
    TokenId left_id, right_id;
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  WordToken* part = symbols.data() + from;
  const auto count = static_cast<uint32_t>(symbols.size() - from);
  constexpr uint32_t none = UINT32_MAX;
  std::vector<uint32_t> next(count), previous(count);
  for (uint32_t i = 0; i < count; ++i) next[i] = i + 1 < count ? i + 1 : none, previous[i] = i ? i - 1 : none;
  std::priority_queue<Candidate> queue;
  auto push = [&](uint32_t left) {
    if (left == none || next[left] == none) return;
    const TokenId a = part[left].id, b = part[next[left]].id;
    if (const Merge* merge = find_merge(a, b)) queue.push({merge->rank, left, a, b});
  };
  for (uint32_t i = 0; i + 1 < count; ++i) push(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t left = top.left, right = next[left];
    if (part[left].id != top.left_id || right == none || part[right].id != top.right_id) continue;
    part[left].id = find_merge(top.left_id, top.right_id)->merged;
    part[left].bytes = part[right].begin + part[right].bytes - part[left].begin;
    part[right].id = -1;
    next[left] = next[right];
    if (next[left] != none) previous[next[left]] = left;
    push(left);
    push(previous[left]);
  }
  const auto begin = symbols.begin() + static_cast<std::ptrdiff_t>(from);
  symbols.erase(std::remove_if(begin, symbols.end(), [](const WordToken& token) { return token.id < 0; }),
                symbols.end());
}

void BpeModel::encode_uncached(std::string_view part, std::vector<WordToken>& out) const {
  const bool in_bytes = options_.symbols == BpeSymbols::bytes;
  if (options_.ignore_merges) {
    const auto whole = in_bytes ? vocabulary_.find(ByteAlphabet::get().encode(part)) : vocabulary_.find(part);
    if (whole && !forbidden_[static_cast<size_t>(*whole)]) {
      out.push_back({*whole, 0, static_cast<uint32_t>(part.size())});
      return;
    }
  }
  const size_t from = out.size();
  if (in_bytes)
    byte_symbols(part, out);
  else
    character_symbols(part, out);
  size_t count = out.size() - from;
  if (count > kShortWord) {
    merge_long(out, from);
  } else if (count > 1) {
    merge_short(out.data() + from, count);
    out.resize(from + count);
  }
}

void BpeModel::encode_part(std::string_view part, std::vector<WordToken>& out) const {
  with_word_cache(instance_, part, out, [&] { encode_uncached(part, out); });
}

void BpeModel::encode_word(std::string_view word, std::vector<WordToken>& out) const {
  if (!words_apart_) return encode_part(word, out);
  for (size_t begin = 0; begin < word.size();) {
    const size_t end = end_of_marked_word(word, begin), from = out.size();
    encode_part(word.substr(begin, end - begin), out);
    for (size_t i = from; i < out.size(); ++i) out[i].begin += static_cast<uint32_t>(begin);
    begin = end;
  }
}

}  // namespace attune::text
