#include "text/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "util/error.h"

namespace attune::text {
namespace {

// The units of Darts-clone's double array.
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}
uint32_t label_of(uint32_t unit) {
  return unit & ((1u << 31) | 0xFF);
}
bool has_leaf(uint32_t unit) {
  return (unit >> 8) & 1;
}

// The end of the grapheme that begins at `at`.
size_t grapheme_end(std::string_view text, size_t at) {
  CodePoint last = code_point_at(text, at);
  size_t end = at + last.bytes;
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    const CodePoint next = code_point_at(text, end);
    const bool breaks = !is_late_mark(next.value) &&
                        utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(last.value),
                                                         static_cast<utf8proc_int32_t>(next.value), &state);
    if (breaks) break;
    end += next.bytes;
    last = next;
  }
  return end;
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  uint32_t bytes = 0;
  if (blob.size() >= 4)
    for (size_t i = 0; i < 4; ++i) bytes |= static_cast<uint32_t>(static_cast<uint8_t>(blob[i])) << (8 * i);
  if (blob.size() < 4 || bytes % 4 != 0 || bytes < 4 || bytes > blob.size() - 4)
    fail("{}: not a precompiled charsmap: its trie has {} bytes, the blob {}", where, bytes, blob.size());
  units_.resize(bytes / 4);
  for (size_t i = 0; i < units_.size(); ++i)
    for (size_t k = 0; k < 4; ++k)
      units_[i] |= static_cast<uint32_t>(static_cast<uint8_t>(blob[4 + 4 * i + k])) << (8 * k);
  replacements_ = blob.substr(4 + bytes);
  if (!is_valid_utf8(replacements_)) fail("{}: the replacements of the charsmap are not UTF-8", where);
}

// A leaf that points outside or into the middle of a character is no rule: no writer makes one.
Charsmap::Rule Charsmap::rule(uint32_t leaf, size_t bytes) const {
  const size_t begin = leaf & 0x7FFFFFFFu;
  if (begin > replacements_.size()) return {};
  std::string_view out = std::string_view(replacements_).substr(begin);
  out = out.substr(0, out.find('\0'));
  if (!is_valid_utf8(out)) return {};
  return {bytes, out};
}

Charsmap::Rule Charsmap::find(std::string_view text, bool longest) const {
  Rule best;
  size_t node = offset_of(units_[0]);
  for (size_t i = 0; i < text.size() && text[i] != '\0'; ++i) {
    node ^= static_cast<uint8_t>(text[i]);
    if (node >= units_.size() || label_of(units_[node]) != static_cast<uint8_t>(text[i])) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const Rule found = rule(units_[node], i + 1);
    if (found.bytes) best = found;
    if (best.bytes && !longest) break;
  }
  return best;
}

// The library looks a short grapheme up as a whole and takes the first rule that matches its beginning, for
// all of it; longer ones character by character. Odd, but models are used with it.
const Section& Charsmap::apply_by_grapheme(const Section& section, Sections& sections) const {
  constexpr size_t kShort = 6;
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  // What is deleted before the first character belongs to it, so that the text still begins at its beginning.
  size_t deleted = 0;
  auto put = [&](ByteRange source, std::string_view changed) {
    if (out.empty() && changed.empty()) {
      deleted = source.end;
      return;
    }
    if (out.empty() && deleted > 0) source.begin = 0;
    if (text.substr(source.begin, source.end - source.begin) != changed)
      alignment.add({out.size(), out.size() + changed.size()}, source);
    out += changed;
  };
  for (size_t at = 0; at < text.size();) {
    const size_t end = grapheme_end(text, at);
    const Rule whole = end - at < kShort ? shortest(text.substr(at, end - at)) : Rule{};
    if (whole.bytes) {
      put({at, end}, whole.replacement);
      at = end;
      continue;
    }
    while (at < end) {
      const size_t bytes = code_point_at(text, at).bytes;
      const Rule found = shortest(text.substr(at, bytes));
      put({at, at + bytes}, found.bytes ? found.replacement : text.substr(at, bytes));
      at += bytes;
    }
  }
  if (out.empty()) alignment.add({0, 0}, {0, text.size()});
  if (alignment.empty()) return section;
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

std::string decode_base64(std::string_view text, const std::string& where) {
  static constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  unsigned have = 0;
  for (char c : text) {
    const size_t value = alphabet.find(c);
    if (value == std::string_view::npos) fail("{}: not base64", where);
    bits = (bits << 6) | static_cast<uint32_t>(value);
    have += 6;
    if (have < 8) continue;
    have -= 8;
    out += static_cast<char>(bits >> have);
  }
  return out;
}

}  // namespace attune::text
