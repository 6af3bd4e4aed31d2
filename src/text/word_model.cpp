#include "text/word_model.h"

#include <algorithm>
#include <bit>
#include <charconv>

namespace attune::text {

void Vocabulary::reserve(size_t count) {
  tokens_.reserve(count);
  grow(std::bit_ceil(count * 2 + 16));
}

void Vocabulary::grow(size_t slots) {
  slots_.assign(slots, -1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (!used_[id]) continue;
    size_t slot = hash64(tokens_[id]) & (slots - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = static_cast<TokenId>(id);
  }
}

bool Vocabulary::add(std::string_view token, TokenId id) {
  if (slots_.size() < (count_ + 1) * 2) grow(std::bit_ceil((count_ + 1) * 4 + 16));
  size_t slot = hash64(token) & (slots_.size() - 1);
  for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1))
    if (tokens_[static_cast<size_t>(slots_[slot])] == token) return false;
  const auto index = static_cast<size_t>(id);
  if (index >= tokens_.size()) {
    tokens_.resize(index + 1);
    used_.resize(index + 1);
  }
  if (used_[index]) return false;
  tokens_[index] = token;
  used_[index] = true;
  slots_[slot] = id;
  ++count_;
  return true;
}

std::optional<TokenId> Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  for (size_t slot = hash64(token) & (slots_.size() - 1); slots_[slot] >= 0;
       slot = (slot + 1) & (slots_.size() - 1))
    if (tokens_[static_cast<size_t>(slots_[slot])] == token) return slots_[slot];
  return std::nullopt;
}

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = -1;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  return error == std::errc() && end == token.data() + 5 && token[3] != '-' ? value : -1;
}

void find_byte_tokens(const Vocabulary& vocabulary, TokenId (&of_byte)[256]) {
  static constexpr char digits[] = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte) {
    const char name[] = {'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'};
    of_byte[byte] = vocabulary.find({name, sizeof name}).value_or(-1);
  }
}

}  // namespace attune::text
