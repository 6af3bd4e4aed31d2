// Unicode normal forms that keep the way back: the text is cut where nothing can combine across the cut.
#include <utf8proc.h>

#include <algorithm>

#include "text/unicode.h"
#include "util/error.h"

namespace attune::text {
namespace {

// A run of combining marks longer than any writing needs is normalised in pieces, so that a hostile text
// cannot make the canonical ordering (quadratic in utf8proc) slow.
constexpr size_t kLongestRun = 512;

bool is_composing(NormalForm form) {
  return form == NormalForm::nfc || form == NormalForm::nfkc;
}
bool is_compatible(NormalForm form) {
  return form == NormalForm::nfkc || form == NormalForm::nfkd;
}

// Plain characters below these bounds are in the normal form and combine with nothing before them.
bool is_surely_stable(uint32_t c, NormalForm form) {
  if (form == NormalForm::nfc)
    return c < 0x300 || (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3000 && c <= 0x3029) ||
           (c >= 0x3030 && c <= 0x3098);
  return c < 0x80;
}

// Whether `c` may change together with what stands before it.
bool joins_backward(uint32_t c) {
  if ((c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2)) return true;  // Hangul vowels and finals
  if (is_late_mark(c)) return false;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  if (property->combining_class != 0) return true;
  if (property->decomp_seqindex != UINT16_MAX) {  // its decomposition may begin with a mark
    utf8proc_int32_t parts[32];
    int boundary = 0;
    const auto flags = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, flags, &boundary);
    if (count > 0 && count <= 32 && static_cast<uint32_t>(parts[0]) != c)
      return joins_backward(static_cast<uint32_t>(parts[0]));
  }
  return property->comb_index != UINT16_MAX && (property->comb_index & 0x8000) != 0;
}

bool is_late(utf8proc_int32_t c) {
  return is_late_decomposition(static_cast<uint32_t>(c));
}

std::string normalize_run(const std::vector<utf8proc_int32_t>& run, NormalForm form) {
  int options = UTF8PROC_STABLE | (is_composing(form) ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
  if (is_compatible(form)) options |= UTF8PROC_COMPAT;
  const auto flags = static_cast<utf8proc_option_t>(options);
  std::vector<utf8proc_int32_t> points;
  for (utf8proc_int32_t c : run) {
    utf8proc_int32_t parts[32];
    int boundary = 0;
    const auto count = is_late(c) ? -1 : utf8proc_decompose_char(c, parts, 32, flags, &boundary);
    if (count < 0 || count > 32)
      points.push_back(c);
    else
      points.insert(points.end(), parts, parts + count);
  }
  auto class_of = [](utf8proc_int32_t c) {
    return is_late_mark(static_cast<uint32_t>(c)) ? 0 : utf8proc_get_property(c)->combining_class;
  };
  for (auto at = points.begin(); at != points.end();) {  // canonical ordering of each run of marks
    if (class_of(*at) == 0) {
      ++at;
      continue;
    }
    auto end = std::find_if(at, points.end(), [&](auto c) { return class_of(c) == 0; });
    std::stable_sort(at, end, [&](auto a, auto b) { return class_of(a) < class_of(b); });
    at = end;
  }
  const bool had_late = std::any_of(run.begin(), run.end(), is_late);
  auto length = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), flags);
  std::string out;
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    utf8proc_int32_t parts[32];
    int boundary = 0;
    utf8proc_ssize_t count = 0;
    if (!had_late && is_late(points[i]))  // composed here, but not by the library
      count = utf8proc_decompose_char(points[i], parts, 32, UTF8PROC_DECOMPOSE, &boundary);
    for (utf8proc_ssize_t k = 0; k < count; ++k) append_utf8(out, static_cast<uint32_t>(parts[k]));
    if (count <= 0) append_utf8(out, static_cast<uint32_t>(points[i]));
  }
  return out;
}

// Calls `changed(begin, end, text)` for each run that the normal form changes.
template <class Changed>
void for_each_change(std::string_view text, NormalForm form, Changed changed) {
  std::vector<utf8proc_int32_t> run;
  size_t run_begin = 0;
  auto finish = [&](size_t end) {
    if (run.empty() || (run.size() == 1 && is_surely_stable(static_cast<uint32_t>(run[0]), form))) return;
    std::string out = normalize_run(run, form);
    if (out != text.substr(run_begin, end - run_begin)) changed(run_begin, end, out);
  };
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    const bool joins = !is_surely_stable(c.value, form) && joins_backward(c.value);
    if (!joins || run.size() >= kLongestRun) {
      finish(at);
      run.clear();
      run_begin = at;
    }
    run.push_back(static_cast<utf8proc_int32_t>(c.value));
    at += c.bytes;
  }
  finish(at);
}

}  // namespace

const Section& normalize(const Section& section, NormalForm form, Sections& sections) {
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  size_t kept = 0;
  for_each_change(text, form, [&](size_t begin, size_t end, const std::string& changed) {
    out.append(text, kept, begin - kept);
    alignment.add({out.size(), out.size() + changed.size()}, {begin, end});
    out += changed;
    kept = end;
  });
  if (alignment.empty()) return section;
  out.append(text, kept, text.size() - kept);
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

std::string normalize(std::string_view text, NormalForm form) {
  Sections sections;
  return std::string(normalize(valid_section(text, sections), form, sections).text());
}

}  // namespace attune::text
