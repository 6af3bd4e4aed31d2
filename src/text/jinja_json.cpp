// json.dumps of template values: Python's separators, escapes and number formats.
#include <algorithm>
#include <cmath>

#include "text/jinja_unicode.h"
#include "text/jinja_value.h"

namespace attune::text::jinja {
namespace {

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}

  Text run(const Value& value) {
    write(value, 0);
    return std::move(out_);
  }

 private:
  void escape(char32_t code, Origin origin) {
    char buffer[16];
    if (code >= 0x10000) {
      const unsigned rest = code - 0x10000;
      std::snprintf(buffer, sizeof buffer, "\\u%04x\\u%04x", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(code));
    }
    out_.append(buffer, origin);
  }

  void string(const Text& text) {
    const std::string& bytes = text.bytes();
    out_.append("\"", text.origin());
    size_t plain = 0;  // start of the bytes not yet copied
    for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
      const char32_t code = decode_at(bytes, at, next);
      static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
      const size_t simple = code < 0x80 ? kFrom.find(static_cast<char>(code)) : std::string_view::npos;
      if (simple == std::string_view::npos && code >= 0x20 && (code < 0x7F || !style_.ensure_ascii)) continue;
      if (simple == std::string_view::npos && code == 0x7F) continue;
      out_.append(text, plain, at);
      plain = next;
      if (simple != std::string_view::npos) {
        const char pair[] = {'\\', kTo[simple]};
        out_.append(std::string_view(pair, 2), text.origin_at(at));
      } else {
        escape(code, text.origin_at(at));
      }
    }
    out_.append(text, plain, bytes.size());
    out_.append("\"", text.origin());
  }

  void scalar(const Value& value) {
    switch (value.kind()) {
      case Kind::none:
        return out_.append("null", value.origin());
      case Kind::boolean:
        return out_.append(value.as_bool() ? "true" : "false", value.origin());
      case Kind::integer:
        return out_.append(std::to_string(value.as_integer()), value.origin());
      case Kind::real: {
        const double number = value.as_real();
        return out_.append(std::isnan(number)   ? "NaN"
                           : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity")
                                                : format_real(number),
                           value.origin());
      }
      case Kind::undefined:
        value_error("tojson: " + value.missing() + " is undefined");
      default:
        value_error("tojson: " + type_name(value) + " has no JSON form");
    }
  }

  void newline(int level, Origin origin) {
    if (!style_.has_indent) return;
    std::string text = "\n";
    for (int i = 0; i < level; ++i) text += style_.indent;
    out_.append(text, origin);
  }

  void key(const Value& key, Origin origin) {
    if (key.is_string()) return string(key.text());
    out_.append("\"", origin);
    scalar(key);
    out_.append("\"", origin);
  }

  void list(const List& list, int level) {
    if (list.kind == ListKind::generator || list.kind == ListKind::range || list.kind == ListKind::view)
      value_error("tojson: a generator has no JSON form; put |list before it");
    if (list.items.empty()) return out_.append("[]", list.origin);
    out_.append("[", list.origin);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i) out_.append(style_.item_separator, list.origin);
      newline(level + 1, list.origin);
      write(list.items[i], level + 1);
    }
    newline(level, list.origin);
    out_.append("]", list.origin);
  }

  void dict(const Dict& dict, int level) {
    if (dict.items.empty()) return out_.append("{}", dict.origin);
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(), [](auto* a, auto* b) { return less(a->first, b->first); });
    out_.append("{", dict.origin);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out_.append(style_.item_separator, dict.origin);
      newline(level + 1, dict.origin);
      key(items[i]->first, dict.origin);
      out_.append(style_.key_separator, dict.origin);
      write(items[i]->second, level + 1);
    }
    newline(level, dict.origin);
    out_.append("}", dict.origin);
  }

  void write(const Value& value, int level) {
    switch (value.kind()) {
      case Kind::string:
        return string(value.text());
      case Kind::list:
        return list(value.as_list(), level);
      case Kind::dict:
        return dict(value.as_dict(), level);
      default:
        scalar(value);
    }
  }

  const JsonStyle& style_;
  Text out_;
};

}  // namespace

Text to_json(const Value& value, const JsonStyle& style) {
  return Writer(style).run(value);
}

}  // namespace attune::text::jinja
