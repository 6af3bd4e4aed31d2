#include "text/added_tokens.h"

#include <algorithm>

#include "util/error.h"

namespace attune::text {
namespace {

// Bounds the work per byte of text; real tokens have less than a hundred bytes.
constexpr size_t kLongestContent = 4096;

size_t spaces_before(std::string_view text, size_t end) {
  while (end > 0) {
    const CodePoint c = code_point_before(text, end);
    if (!is_white_space(c.value)) break;
    end -= c.bytes;
  }
  return end;
}

size_t spaces_behind(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const CodePoint c = code_point_at(text, begin);
    if (!is_white_space(c.value)) break;
    begin += c.bytes;
  }
  return begin;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !is_word(code_point_before(text, begin).value)) &&
         (end == text.size() || !is_word(code_point_at(text, end).value));
}

}  // namespace

bool overlaps(std::span<const ByteRange> sorted, ByteRange range) {
  auto found = std::partition_point(sorted.begin(), sorted.end(),
                                    [&](const ByteRange& r) { return r.end <= range.begin; });
  while (found != sorted.end() && found->begin == found->end) ++found;  // nothing overlaps an empty range
  return found != sorted.end() && found->begin < range.end;
}

// Many models call "<tool_call>", "[TOOL_CALLS]" or "<｜User｜>" not special: what is written with brackets or bars is a mark all the same.
// Words of a domain (add_tokens) are not.
bool AddedToken::is_plain_text() const {
  return !special && (in_user_text || (content.find_first_of("<>[]{}|") == std::string::npos && content.find("｜") == std::string::npos));
}

void AddedTokenFinder::add(const AddedToken* token, std::string_view content) {
  if (content.empty()) return;
  tokens_.push_back(token);
  int& first = first_[static_cast<uint8_t>(content[0])];
  if (first < 0) {
    first = static_cast<int>(nodes_.size());
    nodes_.emplace_back();
  }
  int node = first;
  for (char c : content.substr(1)) {
    const auto byte = static_cast<uint8_t>(c);
    auto& next = nodes_[static_cast<size_t>(node)].next;
    auto found =
        std::find_if(next.begin(), next.end(), [byte](const auto& edge) { return edge.first == byte; });
    if (found != next.end()) {
      node = found->second;
      continue;
    }
    next.emplace_back(byte, static_cast<int>(nodes_.size()));
    node = static_cast<int>(nodes_.size());
    nodes_.emplace_back();
  }
  if (!nodes_[static_cast<size_t>(node)].token) nodes_[static_cast<size_t>(node)].token = token;
}

std::vector<AddedSpan> AddedTokenFinder::split(const Section& section,
                                               std::span<const ByteRange> user_text) const {
  const std::string_view text = section.text();
  std::vector<AddedSpan> spans;
  size_t done = 0;
  for (size_t at = 0; !tokens_.empty() && at < text.size();) {
    size_t end = 0;
    const AddedToken* token = longest_allowed(text, at, end, [&](const AddedToken& found, ByteRange range) {
      return user_text.empty() || found.is_plain_text() || !overlaps(user_text, section.to_source(range));
    });
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at;
    at = end;  // a discarded match is not searched again from within
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(spaces_before(text, begin), done);
    if (token->rstrip) end = spaces_behind(text, end);
    if (done < begin) spans.push_back({{done, begin}, nullptr});
    spans.push_back({{begin, end}, token});
    done = end;
  }
  if (done < text.size()) spans.push_back({{done, text.size()}, nullptr});
  return spans;
}

void AddedTokens::add(AddedToken token, const std::string& where) {
  if (token.content.empty()) return;
  if (token.content.size() > kLongestContent)
    fail("{}: an added token has {} bytes, the limit is {}", where, token.content.size(), kLongestContent);
  const auto same_text = by_content_.find(token.content);
  const AddedToken* same_id = find(token.id);
  if (same_id && same_id->content != token.content)
    fail("{}: id {} stands for \"{}\" and for \"{}\"", where, token.id, same_id->content, token.content);
  if (same_text != by_content_.end()) {
    if (same_text->second->id != token.id)
      fail("{}: token \"{}\" has the ids {} and {}", where, token.content, same_text->second->id, token.id);
    *same_text->second = std::move(token);
    return;
  }
  AddedToken& kept = tokens_.emplace_back(std::move(token));
  by_id_[kept.id] = &kept;
  by_content_[kept.content] = &kept;
}

const AddedToken* AddedTokens::find(TokenId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : found->second;
}

bool AddedTokens::is_special(TokenId id) const {
  const AddedToken* token = find(id);
  return token && token->special;
}

}  // namespace attune::text
