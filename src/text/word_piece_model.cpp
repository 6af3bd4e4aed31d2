#include "text/word_piece_model.h"

#include <algorithm>

#include "text/unicode.h"

namespace attune::text {

void WordPieceModel::finish(const std::vector<TokenId>& forbidden) {
  forbidden_.assign(static_cast<size_t>(vocabulary_.size()), false);
  for (TokenId id : forbidden)
    if (id >= 0 && id < vocabulary_.size()) forbidden_[static_cast<size_t>(id)] = true;
  for (TokenId id = 0; id < vocabulary_.size(); ++id)
    longest_token_ = std::max(longest_token_, vocabulary_.token(id).size());
}

std::optional<WordToken> WordPieceModel::longest_piece(std::string_view word, size_t begin,
                                                       std::string& buffer) const {
  const std::string_view prefix = begin > 0 ? std::string_view(options_.continuing_prefix) : "";
  if (prefix.size() >= longest_token_) return std::nullopt;
  size_t end = std::min(word.size(), begin + longest_token_ - prefix.size());
  while (end < word.size() && end > begin && (static_cast<uint8_t>(word[end]) & 0xC0) == 0x80) --end;
  while (end > begin) {
    buffer.assign(prefix).append(word.substr(begin, end - begin));
    const auto id = vocabulary_.find(buffer);
    if (id && !forbidden_[static_cast<size_t>(*id)])
      return WordToken{*id, static_cast<uint32_t>(begin), static_cast<uint32_t>(end - begin)};
    end -= code_point_before(word, end).bytes;
  }
  return std::nullopt;
}

void WordPieceModel::encode_word(std::string_view word, std::vector<WordToken>& out) const {
  const WordToken unknown{options_.unknown, 0, static_cast<uint32_t>(word.size())};
  size_t characters = 0;
  for (char c : word) characters += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  if (characters > options_.longest_word) return out.push_back(unknown);
  const size_t from = out.size();
  std::string buffer;
  for (size_t at = 0; at < word.size();) {
    const auto piece = longest_piece(word, at, buffer);
    if (!piece) {
      out.resize(from);
      return out.push_back(unknown);
    }
    out.push_back(*piece);
    at += piece->bytes;
  }
}

}  // namespace attune::text
