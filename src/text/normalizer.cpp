#include "text/normalizer.h"

#include <utf8proc.h>

#include "text/json_node.h"

namespace attune::text {
namespace {

uint32_t lower_case(uint32_t c) {
  // Letters of Unicode 16 and 17, which utf8proc does not know yet.
  static constexpr std::pair<uint32_t, uint32_t> late[] = {
      {0x1C89, 0x1C8A}, {0xA7CB, 0x264},  {0xA7CC, 0xA7CD}, {0xA7CE, 0xA7CF},
      {0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D5}, {0xA7DA, 0xA7DB}, {0xA7DC, 0x19B}};
  for (const auto& [upper, lower] : late)
    if (c == upper) return lower;
  if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

const Section& lowercase(const Section& section, Sections& sections) {
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const size_t begin = out.size();
    const uint32_t lower = lower_case(c.value);
    if (c.value == 0x130)
      out += "i\u0307";  // the one letter whose lower case has two characters
    else
      append_utf8(out, lower);
    if (lower != c.value) alignment.add({begin, out.size()}, {at, at + c.bytes});
    at += c.bytes;
  }
  return alignment.empty() ? section : sections.emplace_back(section, std::move(out), std::move(alignment));
}

const Section& replace(const Section& section, const std::vector<ByteRange>& matches, const std::string& put,
                       Sections& sections) {
  if (matches.empty()) return section;
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  size_t kept = 0;
  for (const ByteRange& match : matches) {
    out.append(text, kept, match.begin - kept);
    alignment.add({out.size(), out.size() + put.size()}, match);
    out += put;
    kept = match.end;
  }
  out.append(text, kept, text.size() - kept);
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

std::vector<ByteRange> find_all(std::string_view text, const std::string& what) {
  std::vector<ByteRange> out;
  for (size_t at = text.find(what); at != std::string_view::npos && !what.empty();
       at = text.find(what, at + what.size()))
    out.push_back({at, at + what.size()});
  return out;
}

const Section& strip(const Section& section, bool left, bool right, Sections& sections) {
  const std::string_view text = section.text();
  size_t begin = 0, end = text.size();
  for (CodePoint c; left && begin < end; begin += c.bytes)
    if (c = code_point_at(text, begin); !is_white_space(c.value)) break;
  for (CodePoint c; right && end > begin; end -= c.bytes)
    if (c = code_point_before(text, end); !is_white_space(c.value)) break;
  return begin == 0 && end == text.size() ? section : sections.emplace_back(section, ByteRange{begin, end});
}

// `rewrite(c)`: the text for a character, or nothing where it stays.
template <class Rewrite>
const Section& rewrite_characters(const Section& section, Sections& sections, Rewrite rewrite) {
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const ByteRange source{at, at + c.bytes};
    at += c.bytes;
    const std::optional<std::string> changed = rewrite(c.value, text.substr(source.begin, c.bytes));
    if (!changed) {
      out.append(text, source.begin, c.bytes);
      continue;
    }
    alignment.add({out.size(), out.size() + changed->size()}, source);
    out += *changed;
  }
  return alignment.empty() ? section : sections.emplace_back(section, std::move(out), std::move(alignment));
}

std::optional<std::string> cleaned(uint32_t c, std::string_view) {
  if (c == '\t' || c == '\n' || c == '\r') return " ";
  if (c == 0 || c == 0xFFFD || is_bert_control(c)) return "";
  if (c != ' ' && is_white_space(c)) return " ";
  return std::nullopt;
}

// The blocks as the reference library has them: U+2B820 to U+2B91F is left out there.
bool is_chinese(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x2F800 && c <= 0x2FA1F);
}

std::optional<std::string> spaced(uint32_t c, std::string_view text) {
  if (!is_chinese(c)) return std::nullopt;
  return " " + std::string(text) + " ";
}

}  // namespace

void Normalizer::add_kind(Kind kind) {
  steps_.push_back({.kind = kind, .find = {}, .put = {}, .regex = {}, .charsmap = {}});
}

void Normalizer::add_form(NormalForm form) {
  add_kind(Kind::form);
  steps_.back().form = form;
}

void Normalizer::add_bert(const BertNormalizerOptions& options) {
  if (options.clean_text) add_kind(Kind::clean);
  if (options.handle_chinese_chars) add_kind(Kind::space_chinese);
  if (options.strip_accents) {
    add_form(NormalForm::nfd);
    add_kind(Kind::strip_nonspacing);
  }
  if (options.lowercase) add_kind(Kind::lowercase);
}

void Normalizer::add(const JsonNode& node) {
  const std::string_view type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& item : node.at("normalizers").items()) add(item);
    return;
  }
  static const std::pair<std::string_view, NormalForm> forms[] = {{"NFC", NormalForm::nfc},
                                                                  {"NFD", NormalForm::nfd},
                                                                  {"NFKC", NormalForm::nfkc},
                                                                  {"NFKD", NormalForm::nfkd}};
  for (const auto& [name, form] : forms)
    if (type == name) return add_form(form);
  if (type == "BertNormalizer") {
    const bool lowercase = node.flag("lowercase", true);
    return add_bert({node.flag("clean_text", true), node.flag("handle_chinese_chars", true),
                     node.flag("strip_accents", lowercase), lowercase});
  }
  Step step{.kind = Kind::lowercase, .find = {}, .put = {}, .regex = {}, .charsmap = {}};
  if (type == "Lowercase") {
  } else if (type == "StripAccents") {
    step.kind = Kind::strip_accents;
  } else if (type == "Precompiled") {
    step.kind = Kind::charsmap;
    const JsonNode map = node.at("precompiled_charsmap");
    step.charsmap.emplace(decode_base64(map.string(), map.where()), map.where());
  } else if (type == "Prepend") {
    step.kind = Kind::prepend;
    step.put = node.at("prepend").string();
  } else if (type == "Replace") {
    const JsonNode pattern = node.at("pattern");
    const auto literal = pattern.find("String");
    step.kind = literal ? Kind::replace : Kind::replace_regex;
    if (literal)
      step.find = literal->string();
    else
      step.regex.emplace(std::string(pattern.at("Regex").string()), pattern.where());
    step.put = node.at("content").string();
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.left = node.flag("strip_left", true);
    step.right = node.flag("strip_right", true);
  } else {
    refuse("{}: normalizer type \"{}\" is not supported", node.where(), type);
  }
  steps_.push_back(std::move(step));
}

const Section& Normalizer::run(const Step& step, const Section& section, bool continuation,
                               Sections& sections) {
  switch (step.kind) {
    case Kind::form:
      return normalize(section, step.form, sections);
    case Kind::lowercase:
      return lowercase(section, sections);
    case Kind::prepend:
      if (continuation || section.text().empty()) return section;
      return replace(section, {{0, 0}}, step.put, sections);
    case Kind::replace:
      return replace(section, find_all(section.text(), step.find), step.put, sections);
    case Kind::replace_regex: {
      std::vector<ByteRange> matches;
      step.regex->find_all(section.text(), matches);
      return replace(section, matches, step.put, sections);
    }
    case Kind::strip_accents:
      return rewrite_characters(section, sections, [](uint32_t c, std::string_view) {
        return is_combining_mark(c) ? std::optional<std::string>("") : std::nullopt;
      });
    case Kind::strip_nonspacing:
      return rewrite_characters(section, sections, [](uint32_t c, std::string_view) {
        return is_nonspacing_mark(c) ? std::optional<std::string>("") : std::nullopt;
      });
    case Kind::clean:
      return rewrite_characters(section, sections, cleaned);
    case Kind::space_chinese:
      return rewrite_characters(section, sections, spaced);
    case Kind::charsmap:
      return step.charsmap->apply_by_grapheme(section, sections);
    case Kind::strip:
      return strip(section, step.left, step.right, sections);
  }
  return section;
}

const Section& Normalizer::apply(const Section& section, bool continuation, Sections& sections) const {
  const Section* current = &section;
  for (const Step& step : steps_) current = &run(step, *current, continuation, sections);
  return *current;
}

std::string Normalizer::apply(std::string_view text) const {
  Sections sections;
  return std::string(apply(sections.emplace_back(text), false, sections).text());
}

}  // namespace attune::text
