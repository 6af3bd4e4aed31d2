#include "text/jinja_lexer.h"

#include <algorithm>
#include <cctype>

#include "text/jinja_unicode.h"
#include "util/error.h"

namespace attune::text::jinja {
namespace {

bool word_byte(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80);
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}

// Newlines become \n; the last one of the source is dropped (keep_trailing_newline=False).
std::string normalised(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t next;
    if (!is_space(decode_at(text, at, next))) break;
    at = next;
  }
  return at;
}

size_t strip_right(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0, next = 0; at < text.size(); at = next)
    if (!is_space(decode_at(text, at, next))) end = next;
  return end;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : source_(normalised(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    emit(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(const std::string& what) const { template_error(name_, line_, what); }

  void emit(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + to, '\n'));
    at_ = to;
  }

  bool looking_at(std::string_view what, size_t at) const {
    return std::string_view(source_).substr(at, what.size()) == what;
  }

  char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : 0;
  }

  // Position behind "{% raw %}" when a raw block opens at `tag`, else 0.
  size_t raw_begin(size_t tag, std::string_view word, bool is_end) const {
    size_t at = tag + 2;
    if (sign_at(at)) ++at;
    at = skip_space(source_, at);
    if (!looking_at(word, at)) return 0;
    at = skip_space(source_, at + word.size());
    if (looking_at("-%}", at)) return skip_space(source_, at + 3);
    if (is_end && looking_at("+%}", at)) return at + 3;
    if (!looking_at("%}", at)) return 0;
    at += 2;
    return is_end && looking_at("\n", at) ? at + 1 : at;
  }

  // Emits the text before a tag after the tag's own say about whitespace.
  void emit_data(size_t begin, size_t tag, bool is_print) {
    std::string_view text = std::string_view(source_).substr(begin, tag - begin);
    const bool line_starting = begin == 0 || source_[begin - 1] == '\n';
    const char sign = sign_at(tag + 2);
    if (sign == '-') {
      text = text.substr(0, strip_right(text));
    } else if (sign != '+' && !is_print) {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting) && skip_space(text, line_begin) == text.size())
        text = text.substr(0, line_begin);
    }
    if (!text.empty()) emit(TokenKind::data, std::string(text));
    advance(tag);
  }

  void root() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        emit(TokenKind::data, source_.substr(at_));
        advance(source_.size());
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    emit_data(at_, tag, kind == '{');
    if (kind == '#') return comment();
    if (kind == '%')
      if (const size_t body = raw_begin(tag, "raw", false)) return raw(body);
    const size_t inside = tag + 2 + (sign_at(tag + 2) ? 1 : 0);
    emit(kind == '%' ? TokenKind::block_begin : TokenKind::print_begin, "");
    advance(inside);
    tag_body(kind == '%');
  }

  void comment() {
    const size_t inside = at_ + 2 + (sign_at(at_ + 2) ? 1 : 0);
    const size_t close = source_.find("#}", inside);
    if (close == std::string::npos) fail_here("a comment {# … is not closed by #}");
    size_t end = close + 2;
    const char sign = close > inside ? source_[close - 1] : 0;
    if (sign == '-') {
      end = skip_space(source_, end);
    } else if (sign != '+' && looking_at("\n", end)) {
      ++end;
    }
    advance(end);
  }

  void raw(size_t body) {
    advance(body);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      const size_t end = raw_begin(tag, "endraw", true);
      if (!end) continue;
      emit_data(at_, tag, false);
      return advance(end);
    }
    fail_here("{% raw %} is not closed by {% endraw %}");
  }

  // Ends the tag at `at_` if it ends here.
  bool tag_end(bool is_block) {
    const std::string_view close = is_block ? "%}" : "}}";
    const char sign = sign_at(at_);
    size_t end = at_;
    if (sign && looking_at(close, at_ + 1) && (sign == '-' || is_block)) {
      end = at_ + 3;
      if (sign == '-') end = skip_space(source_, end);
    } else if (looking_at(close, at_)) {
      end = at_ + 2;
      if (is_block && looking_at("\n", end)) ++end;
    } else {
      return false;
    }
    emit(is_block ? TokenKind::block_end : TokenKind::print_end, "");
    advance(end);
    return true;
  }

  void tag_body(bool is_block) {
    std::string open;  // brackets still open, innermost last
    while (true) {
      if (open.empty() && tag_end(is_block)) return;
      if (at_ >= source_.size())
        fail_here(is_block ? "a tag {% … is not closed by %}" : "a tag {{ … is not closed by }}");
      const size_t next = skip_space(source_, at_);
      if (next != at_) {
        advance(next);
        continue;
      }
      const char c = source_[at_];
      if (digit(c)) {
        number();
      } else if (word_byte(c)) {
        size_t end = at_;
        while (end < source_.size() && word_byte(source_[end])) ++end;
        emit(TokenKind::name, source_.substr(at_, end - at_));
        advance(end);
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        op(open);
      }
    }
  }

  void number() {
    size_t end = at_;
    const auto digits = [&](auto accept) {
      while (end < source_.size() &&
             (accept(source_[end]) ||
              (source_[end] == '_' && end + 1 < source_.size() && accept(source_[end + 1]))))
        ++end;
    };
    if (source_[at_] == '0' && at_ + 1 < source_.size() &&
        std::string_view("xXoObB").find(source_[at_ + 1]) != std::string_view::npos) {
      end = at_ + 2;
      digits([](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
      return number_done(TokenKind::integer, end);
    }
    digits(digit);
    bool real = false;
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' && digit(source_[end + 1])) {
      ++end;
      digits(digit);
      real = true;
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (sign_at(exponent)) ++exponent;
      if (exponent < source_.size() && digit(source_[exponent])) {
        end = exponent;
        digits(digit);
        real = true;
      }
    }
    number_done(real ? TokenKind::real : TokenKind::integer, end);
  }

  void number_done(TokenKind kind, size_t end) {
    std::string digits = source_.substr(at_, end - at_);
    std::erase(digits, '_');
    emit(kind, std::move(digits));
    advance(end);
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_here("a string is not closed by its quotation mark");
    emit(TokenKind::string, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  char32_t hex(std::string_view text, size_t at, size_t count) const {
    if (at + count > text.size()) fail_here("a \\x, \\u or \\U escape in a string is too short");
    char32_t code = 0;
    for (size_t i = 0; i < count; ++i) {
      const char c = text[at + i];
      if (!std::isxdigit(static_cast<unsigned char>(c)))
        fail_here("a \\x, \\u or \\U escape in a string is not hexadecimal");
      code = code * 16 + (digit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail_here("a \\u escape in a string is no character");
    return code;
  }

  // Python's unicode-escape.
  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      static constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
      if (const size_t simple = kFrom.find(c); simple != std::string_view::npos) {
        out += kTo[simple];
      } else if (c == '\n') {
        continue;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_utf8(out, hex(text, i + 1, count));
        i += count;
      } else if (c >= '0' && c <= '7') {
        char32_t code = 0;
        size_t n = 0;
        for (; n < 3 && i + n < text.size() && text[i + n] >= '0' && text[i + n] <= '7'; ++n)
          code = code * 8 + (text[i + n] - '0');
        append_utf8(out, code);
        i += n - 1;
      } else if (c == 'N') {
        fail_here("\\N{…} escapes are not supported; write the character itself");
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void op(std::string& open) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    std::string text(1, source_[at_]);
    for (std::string_view two : kTwo)
      if (looking_at(two, at_)) text = two;
    if (text.size() == 1 && kOne.find(text[0]) == std::string_view::npos)
      fail_here("unexpected character '" + text + "' in a tag");
    if (text == "(" || text == "[" || text == "{") open += text[0] == '(' ? ')' : text[0] == '[' ? ']' : '}';
    if (text == ")" || text == "]" || text == "}") {
      if (open.empty() || open.back() != text[0])
        fail_here("unexpected '" + text + "'" +
                  (open.empty() ? "" : std::string(", expected '") + open.back() + "'"));
      open.pop_back();
    }
    emit(TokenKind::op, text);
    advance(at_ + text.size());
  }

  std::string source_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& template_name) {
  return Lexer(source, template_name).run();
}

void template_error(const std::string& template_name, int line, const std::string& what) {
  refuse("chat template {}, line {}: {}", template_name, line, what);
}

}  // namespace attune::text::jinja
