// "▁" (U+2581), which SentencePiece and its descendants write for a space.
#pragma once

#include <algorithm>
#include <string_view>

namespace attune::text {

inline constexpr std::string_view kSpaceMark = "\u2581";

// Where the word that begins at `begin` ends: before the next mark that follows something else.
inline size_t end_of_marked_word(std::string_view text, size_t begin) {
  size_t end = begin;
  while (text.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
  return std::min(text.size(), text.find(kSpaceMark, end));
}

// Whether a token has a mark behind something else.
inline bool reaches_over_words(std::string_view token) {
  return end_of_marked_word(token, 0) != token.size();
}

}  // namespace attune::text
