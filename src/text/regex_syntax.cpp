// Oniguruma's Ruby syntax → PCRE2.
#include "text/regex.h"
#include "text/unicode.h"
#include "util/error.h"

namespace attune::text {
namespace {

constexpr const char* kSpaces =
    "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr const char* kNotSpaces =
    "\\x00-\\x08\\x0E-\\x1F\\x21-\\x84\\x86-\\x9F\\xA1-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}"
    "\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}";
constexpr std::string_view kCategories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P",  "Pc", "Pd",
    "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
// Scripts whose members PCRE2's script property lists the same way for all characters in use.
constexpr std::string_view kScripts[] = {"Hiragana", "Katakana", "Hangul", "Latin",   "Cyrillic",  "Greek",
                                         "Arabic",   "Hebrew",   "Thai",   "Lao",     "Khmer",     "Myanmar",
                                         "Tibetan",  "Bopomofo", "Tamil",  "Bengali", "Devanagari"};

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) element();
    return std::move(out_);
  }

 private:
  [[noreturn]] void unsupported(const std::string& what) const {
    refuse("{}: the regular expression \"{}\" uses {}, which is not supported", where_, in_, what);
  }
  bool has(size_t at, char c) const { return at < in_.size() && in_[at] == c; }

  void element() {
    const char c = in_[at_];
    if (c == '(') return open_group();
    if (c == ')') {
      out_ += in_[at_++];
      if (!groups_.empty()) {
        atom_ = groups_.back();
        groups_.pop_back();
      }
      return;
    }
    if (c == '{' && is_interval()) return interval();
    if (c == '|' || c == '^' || c == '$' || c == '*' || c == '+' || c == '?') {
      out_ += in_[at_++];
      return;
    }
    atom_ = out_.size();
    if (c == '[') return char_class();
    if (c == '\\') return escape(false);
    if (c == '{') out_ += '\\';
    if (c == '#' || c == ' ') out_ += '\\';
    out_ += in_[at_++];
    // The rest of a character is part of the same atom.
    while (at_ < in_.size() && (static_cast<uint8_t>(in_[at_]) & 0xC0) == 0x80) out_ += in_[at_++];
  }

  void open_group() {
    groups_.push_back(out_.size());
    static constexpr std::string_view known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    const std::string_view rest = std::string_view(in_).substr(at_);
    for (std::string_view prefix : known)
      if (rest.starts_with(prefix)) {
        if (prefix == "(?i)" && at_ != 0) unsupported("\"(?i)\" behind the beginning");
        out_ += prefix;
        at_ += prefix.size();
        if (prefix.back() == ')') groups_.pop_back();
        return;
      }
    if (has(at_ + 1, '?') || has(at_ + 1, '*'))
      unsupported("the group \"" + std::string(rest.substr(0, 4)) + "\"");
    out_ += in_[at_++];
  }

  bool is_interval() const {
    size_t i = at_ + 1;
    const size_t digits = i;
    while (i < in_.size() && (std::isdigit(static_cast<uint8_t>(in_[i])) || in_[i] == ',')) ++i;
    return i > digits && has(i, '}') && in_[digits] != ',';
  }

  // In Ruby syntax "{n,m}+" is not possessive: it repeats the repetition.
  void interval() {
    const size_t close = in_.find('}', at_);
    out_.append(in_, at_, close + 1 - at_);
    at_ = close + 1;
    if (has(at_, '+')) {
      out_.insert(atom_, "(?:");
      out_ += ")";
    }
  }

  void escape(bool in_class) {
    if (at_ + 1 >= in_.size()) unsupported("a \"\\\" at the end");
    const char c = in_[at_ + 1];
    auto take = [&](const std::string& text) { out_ += text, at_ += 2; };
    auto wrap = [&](const std::string& inner) { return in_class ? inner : "[" + inner + "]"; };
    if (c == 's') return take(wrap(kSpaces));
    if (c == 'S') return take(wrap(kNotSpaces));
    if (c == 'd') return take(wrap("\\p{Nd}" + new_characters_class("Nd")));
    if (c == 'w') return take(wrap(word_class()));
    if (!in_class && c == 'D') return take("[^\\p{Nd}" + new_characters_class("Nd") + "]");
    if (!in_class && c == 'W') return take("[^" + word_class() + "]");
    if (c == 'p' || c == 'P') return property(in_class);
    if (c == 'u') return code_point();
    if (c == 'v') return take("\\x0B");
    if (c == 'x' || std::string_view("rntfae").find(c) != std::string_view::npos ||
        std::ispunct(static_cast<uint8_t>(c)) || c == ' ')
      return take({'\\', c});
    if (!in_class && (c == 'A' || c == 'z' || c == 'Z')) return take({'\\', c});
    unsupported(std::string("\"\\") + c + "\"");
  }

  static std::string word_class() {
    std::string out = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
    for (const char* category : {"L", "M", "Nd", "Nl", "Pc"}) out += new_characters_class(category);
    return out + further_word_class();
  }

  void code_point() {
    size_t digits = 0;
    while (digits < 4 && at_ + 2 + digits < in_.size() &&
           std::isxdigit(static_cast<uint8_t>(in_[at_ + 2 + digits])))
      ++digits;
    if (digits != 4) unsupported("\"\\u\" without four hexadecimal digits");
    out_ += "\\x{" + in_.substr(at_ + 2, 4) + "}";
    at_ += 6;
  }

  void property(bool in_class) {
    bool negated = in_[at_ + 1] == 'P';
    size_t begin = at_ + 3, end = in_.find('}', at_);
    if (!has(at_ + 2, '{') || end == std::string::npos) unsupported("\"\\p\" without {name}");
    if (has(begin, '^')) negated = !negated, ++begin;
    const std::string name = in_.substr(begin, end - begin);
    const std::string inner = property_class(name);
    if (negated && in_class) unsupported("\"\\P{" + name + "}\" inside a character class");
    out_ += in_class ? inner : (negated ? "[^" : "[") + inner + "]";
    at_ = end + 1;
  }

  std::string property_class(const std::string& name) const {
    for (std::string_view category : kCategories)
      if (name == category) return "\\p{" + name + "}" + new_characters_class(name);
    if (name == "Han" || name == "Script=Han") return "\\p{sc:Han}" + new_han_class();
    for (std::string_view script : kScripts)
      if (name == script) return "\\p{sc:" + name + "}";
    unsupported("\"\\p{" + name + "}\"");
  }

  void char_class() {
    out_ += in_[at_++];
    if (has(at_, '^')) out_ += in_[at_++];
    if (has(at_, ']')) out_ += "\\]", ++at_;
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '[')
        nested_class();
      else if (in_[at_] == '&' && has(at_ + 1, '&'))
        unsupported("\"&&\" inside a character class");
      else if (in_[at_] == '\\')
        escape(true);
      else
        out_ += in_[at_++];
    }
    if (at_ >= in_.size()) unsupported("a character class without end");
    out_ += in_[at_++];
  }

  // A class inside a class is a union; without '^' its content can simply be listed.
  void nested_class() {
    if (has(at_ + 1, ':') || has(at_ + 1, '^')) unsupported("a nested character class");
    for (++at_; at_ < in_.size() && in_[at_] != ']';) {
      if (in_[at_] == '[' || in_[at_] == '&') unsupported("a nested character class");
      if (in_[at_] == '\\')
        escape(true);
      else
        out_ += in_[at_++];
    }
    ++at_;
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  size_t atom_ = 0;
  std::vector<size_t> groups_;
};

}  // namespace

std::string pcre_pattern(const std::string& pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace attune::text
