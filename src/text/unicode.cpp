#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "util/error.h"

namespace attune::text {
namespace {

struct NewCharacters {
  uint32_t first;
  uint32_t last;
  char category[3];
};

#include "text/unicode_components.inc"
#include "text/unicode_table.inc"

constexpr CodeRange kWhiteSpace[] = {{0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},
                                     {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                     {0x205F, 0x205F}, {0x3000, 0x3000}};

template <size_t N>
bool contains_sorted(const CodeRange (&ranges)[N], uint32_t c) {
  const auto* after =
      std::upper_bound(std::begin(ranges), std::end(ranges), c,
                       [](uint32_t point, const CodeRange& range) { return point < range.first; });
  return after != std::begin(ranges) && c <= (after - 1)->last;
}

template <size_t N>
bool contains(const CodeRange (&ranges)[N], uint32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const CodeRange& r) { return c >= r.first && c <= r.last; });
}

// Bytes of the ill-formed sequence at `at` that one U+FFFD stands for (the Unicode "maximal subpart").
size_t maximal_subpart(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : 0u; };
  const unsigned lead = byte(0);
  unsigned low = 0x80, high = 0xBF;
  size_t length = 1;
  if (lead >= 0xC2 && lead <= 0xDF)
    length = 2;
  else if (lead >= 0xE0 && lead <= 0xEF)
    length = 3;
  else if (lead >= 0xF0 && lead <= 0xF4)
    length = 4;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  size_t good = 1;
  for (; good < length; ++good, low = 0x80, high = 0xBF)
    if (byte(good) < low || byte(good) > high) break;
  return good;
}

size_t replaced_bytes(std::string_view text, size_t at, Replacement replacement) {
  return replacement == Replacement::per_byte ? 1 : maximal_subpart(text, at);
}

std::string range_text(uint32_t first, uint32_t last) {
  return first == last ? fmt::format("\\x{{{:X}}}", first)
                       : fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", first, last);
}

}  // namespace

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto lead = static_cast<uint8_t>(text[at]);
  if (lead < 0x80) return {lead, 1, true};
  utf8proc_int32_t value = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
  const auto used =
      utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(std::min<size_t>(4, text.size() - at)), &value);
  if (used <= 0) return {};
  return {static_cast<uint32_t>(value), static_cast<uint32_t>(used), true};
}

CodePoint code_point_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && end - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return code_point_at(text, at);
}

void append_utf8(std::string& out, uint32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

bool is_valid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight;
    if (at + 8 <= text.size() &&
        (std::memcpy(&eight, text.data() + at, 8), (eight & 0x8080808080808080u) == 0)) {
      at += 8;
      continue;
    }
    const CodePoint c = code_point_at(text, at);
    if (!c.valid) return false;
    at += c.bytes;
  }
  return true;
}

size_t unfinished_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t at = text.size() - back;
    const auto byte = static_cast<uint8_t>(text[at]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t wanted = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1;
    return byte <= 0xF4 && wanted > back && maximal_subpart(text, at) == back ? back : 0;
  }
  return 0;
}

std::string to_valid_utf8(std::string_view bytes, Replacement replacement) {
  if (is_valid_utf8(bytes)) return std::string(bytes);
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint c = code_point_at(bytes, at);
    const size_t used = c.valid ? c.bytes : replaced_bytes(bytes, at, replacement);
    if (c.valid)
      out.append(bytes, at, used);
    else
      append_utf8(out, 0xFFFD);
    at += used;
  }
  return out;
}

const char* general_category(uint32_t code_point) {
  const auto* found =
      std::upper_bound(std::begin(kNewCharacters), std::end(kNewCharacters), code_point,
                       [](uint32_t c, const NewCharacters& range) { return c < range.first; });
  if (found != std::begin(kNewCharacters) && code_point <= (found - 1)->last) return (found - 1)->category;
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code_point));
}

bool is_white_space(uint32_t c) {
  return contains(kWhiteSpace, c);
}

bool is_numeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return contains_sorted(kNumeric, c);
}

bool is_word(uint32_t c) {
  const std::string_view category = general_category(c);
  return category[0] == 'L' || category[0] == 'M' || category == "Nd" || category == "Nl" ||
         category == "Pc" || c == 0x200C || c == 0x200D ||
         (c > 0xFF && contains(kFurtherWord, c));  // Oniguruma adds ², ¼ …
}

bool is_punctuation(uint32_t c) {
  if (c < 0x80) return std::ispunct(static_cast<int>(c)) != 0;
  return contains_sorted(kPunctuation, c);
}

bool is_combining_mark(uint32_t c) {
  return c >= 0x300 && contains_sorted(kCombiningMarks, c);
}

bool is_nonspacing_mark(uint32_t c) {
  return c >= 0x300 && contains_sorted(kNonspacingMarks, c);
}

bool is_bert_control(uint32_t c) {
  return contains_sorted(kBertControls, c);
}

bool is_late_mark(uint32_t c) {
  return c >= kLateMarks[0].first && contains(kLateMarks, c);
}

bool is_late_decomposition(uint32_t c) {
  return c >= kLateDecompositions[0].first && contains_sorted(kLateDecompositions, c);
}

std::string new_characters_class(std::string_view category) {
  std::string out;
  for (const NewCharacters& range : kNewCharacters)
    if (std::string_view(range.category).substr(0, category.size()) == category)
      out += range_text(range.first, range.last);
  return out;
}

std::string further_word_class() {
  std::string out;
  for (const CodeRange& range : kFurtherWord) out += range_text(range.first, range.last);
  return out;
}

std::string new_han_class() {
  std::string out;
  for (const CodeRange& range : kNewHan) out += range_text(range.first, range.last);
  return out;
}

ByteRange Alignment::to_source(ByteRange changed) const {
  auto after = std::upper_bound(edits_.begin(), edits_.end(), changed.begin,
                                [](size_t at, const Edit& edit) { return at < edit.changed.begin; });
  ByteRange source = changed;
  if (after != edits_.begin()) {
    const Edit& edit = *(after - 1);
    source.begin = changed.begin < edit.changed.end ? edit.source.begin
                                                    : edit.source.end + (changed.begin - edit.changed.end);
  }
  after = std::lower_bound(edits_.begin(), edits_.end(), changed.end,
                           [](const Edit& edit, size_t at) { return edit.changed.begin < at; });
  if (after != edits_.begin()) {
    const Edit& edit = *(after - 1);
    source.end = changed.end <= edit.changed.end ? edit.source.end
                                                 : edit.source.end + (changed.end - edit.changed.end);
  }
  source.end = std::max(source.begin, source.end);
  return source;
}

ByteRange Section::to_source(ByteRange range) const {
  for (const Section* section = this; section; section = section->parent_) {
    if (!section->alignment_.empty()) range = section->alignment_.to_source(range);
    range.begin += section->base_;
    range.end += section->base_;
  }
  return range;
}

const Section& valid_section(std::string_view text, Sections& sections, Replacement replacement) {
  const Section& whole = sections.emplace_back(text);
  if (is_valid_utf8(text)) return whole;
  std::string out;
  Alignment alignment;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (c.valid) {
      out.append(text, at, c.bytes);
      at += c.bytes;
      continue;
    }
    const size_t used = replaced_bytes(text, at, replacement);
    alignment.add({out.size(), out.size() + 3}, {at, at + used});
    append_utf8(out, 0xFFFD);
    at += used;
  }
  return sections.emplace_back(whole, std::move(out), std::move(alignment));
}

}  // namespace attune::text
