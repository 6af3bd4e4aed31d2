// Methods of strings, lists and mappings.
#include <algorithm>
#include <optional>

#include "text/jinja_render.h"
#include "text/jinja_unicode.h"

namespace attune::text::jinja {

const Value* argument(const Arguments& arguments, size_t index, std::string_view name) {
  if (index < arguments.positional.size()) return &arguments.positional[index];
  for (const auto& [known, value] : arguments.named)
    if (known == name) return &value;
  return nullptr;
}

Text stripped(const Text& text, const Value* characters, bool left, bool right) {
  std::vector<char32_t> set;
  const bool spaces = !characters || characters->is(Kind::none);
  if (!spaces) {
    if (!characters->is_string())
      value_error("strip takes a string of characters, not " + type_name(*characters));
    const std::string& bytes = characters->bytes();
    for (size_t at = 0, next = 0; at < bytes.size(); at = next) set.push_back(decode_at(bytes, at, next));
  }
  const auto strip = [&](char32_t code) {
    return spaces ? is_space(code) : std::find(set.begin(), set.end(), code) != set.end();
  };
  const std::string& bytes = text.bytes();
  size_t begin = 0, end = bytes.size();
  for (size_t next = 0; left && begin < end; begin = next)
    if (!strip(decode_at(bytes, begin, next))) break;
  while (right && end > begin) {
    size_t at = end - 1, next = 0;
    while (at > begin && (bytes[at] & 0xC0) == 0x80) --at;
    if (!strip(decode_at(bytes, at, next))) break;
    end = at;
  }
  return text.substr(begin, end);
}

Text replaced(const Text& text, const Text& from, const Text& to, int64_t count) {
  Text out;
  const std::string& bytes = text.bytes();
  if (from.empty()) {
    const std::vector<size_t> offsets = character_offsets(bytes);
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (count < 0 || count-- > 0) out.append(to);
      if (i + 1 < offsets.size()) out.append(text, offsets[i], offsets[i + 1]);
    }
    return out;
  }
  size_t at = 0;
  while (count != 0) {
    const size_t hit = bytes.find(from.bytes(), at);
    if (hit == std::string::npos) break;
    out.append(text, at, hit);
    out.append(to);
    at = hit + from.size();
    if (count > 0) --count;
  }
  out.append(text, at, bytes.size());
  return out;
}

Text mapped(const Text& text, std::string (*map)(char32_t)) {
  Text out;
  const std::string& bytes = text.bytes();
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    out.append(map(code), text.origin_at(at));
  }
  out.markup = text.markup;
  return out;
}

namespace {

using Method = Value (*)(Renderer&, const Value&, Arguments&);

const Text& text_argument(const Arguments& args, size_t index, const char* name) {
  const Value* value = argument(args, index, name);
  if (!value) value_error(std::string("argument '") + name + "' is missing");
  if (!value->is_string())
    value_error(std::string("argument '") + name + "' must be a string, not " + type_name(*value));
  return value->text();
}

int64_t integer_argument(const Arguments& args, size_t index, const char* name, int64_t fallback) {
  const Value* value = argument(args, index, name);
  if (!value || value->is(Kind::none)) return fallback;
  if (!value->is(Kind::integer) && !value->is(Kind::boolean))
    value_error(std::string("argument '") + name + "' must be an integer, not " + type_name(*value));
  return value->as_integer();
}

// Title and capitalize: the first cased letter of a word (of the text) is a capital, the rest are small.
Text cased(const Text& text, bool every_word) {
  Text out;
  const std::string& bytes = text.bytes();
  bool inside = false;
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    const bool first = every_word ? !inside : at == 0;
    out.append(first ? to_title(code) : to_lower(code), text.origin_at(at));
    inside = is_upper(code) || is_lower(code);
  }
  return out;
}

Text swapped(const Text& text) {
  return mapped(text, [](char32_t code) { return is_upper(code) ? to_lower(code) : to_upper(code); });
}

Value split_spaces(const Text& text, int64_t limit, bool from_right) {
  const std::string& bytes = text.bytes();
  std::vector<std::pair<size_t, size_t>> words;
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const bool space = is_space(decode_at(bytes, at, next));
    if (space) continue;
    if (!words.empty() && words.back().second == at) {
      words.back().second = next;
    } else {
      words.emplace_back(at, next);
    }
  }
  const size_t keep = limit < 0 ? words.size() : static_cast<size_t>(limit);
  if (words.size() > keep + 1 || (limit == 0 && words.size() > 1)) {
    const size_t extra = words.size() - keep;
    if (from_right) {
      words[0].second = words[extra - 1].second;
      words[0].first = 0;
      words.erase(words.begin() + 1, words.begin() + extra);
      Text head = stripped(text.substr(0, words[0].second), nullptr, false, true);
      words[0].second = head.size();
    } else {
      words[keep].second = bytes.size();
      words.resize(keep + 1);
    }
  } else if (limit >= 0 && !words.empty() && words.size() == keep + 1) {
    (from_right ? words.front().first : words.back().second) = from_right ? 0 : bytes.size();
  }
  std::vector<Value> out;
  for (auto [begin, end] : words) out.push_back(Value::string(text.substr(begin, end)));
  return Value::list(std::move(out));
}

Value split_by(Renderer& renderer, const Text& text, const Text& separator, int64_t limit, bool from_right) {
  if (separator.empty()) value_error("split needs a separator that is not empty");
  const std::string &bytes = text.bytes(), &mark = separator.bytes();
  std::vector<Value> out;
  renderer.charge(static_cast<int64_t>(bytes.size() / 64));
  if (from_right) {
    size_t end = bytes.size();
    while (limit != 0 && end >= mark.size()) {
      const size_t hit = bytes.rfind(mark, end - mark.size());
      if (hit == std::string::npos) break;
      out.push_back(Value::string(text.substr(hit + mark.size(), end)));
      end = hit;
      if (limit > 0) --limit;
    }
    out.push_back(Value::string(text.substr(0, end)));
    std::reverse(out.begin(), out.end());
  } else {
    size_t at = 0;
    while (limit != 0) {
      const size_t hit = bytes.find(mark, at);
      if (hit == std::string::npos) break;
      out.push_back(Value::string(text.substr(at, hit)));
      at = hit + mark.size();
      if (limit > 0) --limit;
    }
    out.push_back(Value::string(text.substr(at, bytes.size())));
  }
  renderer.charge(static_cast<int64_t>(out.size()));
  return Value::list(std::move(out));
}

Value split(Renderer& renderer, const Value& self, Arguments& args, bool from_right) {
  const Value* separator = argument(args, 0, "sep");
  const int64_t limit = integer_argument(args, 1, "maxsplit", -1);
  if (!separator || separator->is(Kind::none)) return split_spaces(self.text(), limit, from_right);
  return split_by(renderer, self.text(), text_argument(args, 0, "sep"), limit, from_right);
}

}  // namespace

Value split_lines(const Text& text, bool keep) {
  std::vector<Value> out;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    const bool ends = (code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
                      code == 0x2028 || code == 0x2029;
    if (!ends) continue;
    if (code == 13 && next < bytes.size() && bytes[next] == '\n') ++next;
    out.push_back(Value::string(text.substr(begin, keep ? next : at)));
    begin = next;
  }
  if (begin < bytes.size()) out.push_back(Value::string(text.substr(begin, bytes.size())));
  return Value::list(std::move(out));
}

namespace {

Value affix(const Value& self, Arguments& args, bool front) {
  const Value* value = argument(args, 0, "prefix");
  if (!value) value_error("startswith and endswith need an argument");
  std::vector<Value> options = value->is(Kind::list) ? value->as_list().items : std::vector<Value>{*value};
  for (const Value& option : options) {
    if (!option.is_string()) value_error("startswith and endswith take a string, not " + type_name(option));
    if (front ? self.bytes().starts_with(option.bytes()) : self.bytes().ends_with(option.bytes()))
      return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value find(const Value& self, Arguments& args, bool from_right, bool must) {
  const std::string& what = text_argument(args, 0, "sub").bytes();
  if (args.positional.size() > 1) value_error("find with a start or end is not supported");
  const size_t at = from_right ? self.bytes().rfind(what) : self.bytes().find(what);
  if (at == std::string::npos) {
    if (must) value_error("index: the text is not found");
    return Value::integer(-1);
  }
  return Value::integer(count_characters(std::string_view(self.bytes()).substr(0, at)));
}

Value partition(const Value& self, Arguments& args, bool from_right) {
  const Text& text = self.text();
  const std::string& mark = text_argument(args, 0, "sep").bytes();
  if (mark.empty()) value_error("partition needs a separator that is not empty");
  const size_t at = from_right ? text.bytes().rfind(mark) : text.bytes().find(mark);
  std::vector<Value> out(3, Value::literal(""));
  if (at == std::string::npos) {
    out[from_right ? 2 : 0] = self;
  } else {
    out = {Value::string(text.substr(0, at)), Value::string(text.substr(at, at + mark.size())),
           Value::string(text.substr(at + mark.size(), text.size()))};
  }
  return Value::list(std::move(out), ListKind::tuple);
}

Value padded(Renderer& renderer, const Value& self, Arguments& args, bool left, bool right) {
  const int64_t missing = integer_argument(args, 0, "width", 0) - length(self);
  if (missing <= 0) return self;
  if (missing > 100'000) value_error("a width is too large");
  const std::string fill = args.positional.size() > 1 ? text_argument(args, 1, "fillchar").bytes() : " ";
  // Python's center puts the odd space to the left when the width is odd.
  const int64_t before = left && right ? missing / 2 + (missing & integer_argument(args, 0, "width", 0) & 1)
                         : left        ? missing
                                       : 0;
  Text out;
  for (int64_t i = 0; i < before; ++i) out.append(fill, {});
  out.append(self.text());
  for (int64_t i = before; i < missing; ++i) out.append(fill, {});
  return renderer.string(std::move(out));
}

Value join(Renderer& renderer, const Value& self, Arguments& args) {
  const Value* list = argument(args, 0, "iterable");
  if (!list) value_error("join needs a list");
  Text out;
  bool first = true;
  for (const Value& item : iterate(*list)) {
    if (!item.is_string()) value_error("str.join needs strings, found " + type_name(item));
    if (!std::exchange(first, false)) out.append(self.text());
    out.append(item.text());
  }
  return renderer.string(std::move(out));
}

bool all_of(const Value& self, bool (*test)(char32_t)) {
  const std::string& bytes = self.bytes();
  for (size_t at = 0, next = 0; at < bytes.size(); at = next)
    if (!test(decode_at(bytes, at, next))) return false;
  return !bytes.empty();
}

// isupper and islower: some letter has the case and none has the other.
bool has_case(const Value& self, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool found = false;
  const std::string& bytes = self.bytes();
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    if (other(code)) return false;
    found |= wanted(code);
  }
  return found;
}

int64_t count_text(const Value& self, Arguments& args) {
  const std::string& what = text_argument(args, 0, "sub").bytes();
  if (what.empty()) return length(self) + 1;
  int64_t count = 0;
  for (size_t at = self.bytes().find(what); at != std::string::npos;
       at = self.bytes().find(what, at + what.size()))
    ++count;
  return count;
}

// "{} {name}".format(…) without conversions or format specifications.
Value format_braces(Renderer& renderer, const Value& self, Arguments& args) {
  const Text& text = self.text();
  const std::string& bytes = text.bytes();
  Text out;
  size_t automatic = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if ((c == '{' || c == '}') && i + 1 < bytes.size() && bytes[i + 1] == c) {
      out.append(text, i, i + 1);
      ++i;
    } else if (c == '}') {
      value_error("format: a single '}' in the text");
    } else if (c != '{') {
      out.append(text, i, i + 1);
    } else {
      const size_t close = bytes.find('}', i);
      if (close == std::string::npos) value_error("format: a '{' is not closed");
      const std::string field = bytes.substr(i + 1, close - i - 1);
      if (field.find_first_of(":!.[{") != std::string::npos)
        value_error("format: the field '{" + field + "}' is not supported");
      const bool number = field.find_first_not_of("0123456789") == std::string::npos;
      const Value* value =
          number ? argument(args, field.empty() ? automatic++ : std::stoul(field.substr(0, 6)), "")
                 : argument(args, args.positional.size(), field);
      if (!value) value_error("format: no argument for '{" + field + "}'");
      out.append(to_text(*value));
      i = close;
    }
  }
  return renderer.string(std::move(out));
}

Value unsafe(Renderer&, const Value&, Arguments&) {
  value_error("a method that changes its list or mapping is not allowed in a chat template");
}

const std::vector<std::pair<std::string_view, Method>>& string_methods() {
  using R = Renderer&;
  using V = const Value&;
  using A = Arguments&;
  static const std::vector<std::pair<std::string_view, Method>> kMethods = {
      {"strip",
       [](R, V s, A a) { return Value::string(stripped(s.text(), argument(a, 0, "chars"), true, true)); }},
      {"lstrip",
       [](R, V s, A a) { return Value::string(stripped(s.text(), argument(a, 0, "chars"), true, false)); }},
      {"rstrip",
       [](R, V s, A a) { return Value::string(stripped(s.text(), argument(a, 0, "chars"), false, true)); }},
      {"split", [](R r, V s, A a) { return split(r, s, a, false); }},
      {"rsplit", [](R r, V s, A a) { return split(r, s, a, true); }},
      {"splitlines",
       [](R, V s, A a) {
         const Value* keep = argument(a, 0, "keepends");
         return split_lines(s.text(), keep && truthy(*keep));
       }},
      {"startswith", [](R, V s, A a) { return affix(s, a, true); }},
      {"endswith", [](R, V s, A a) { return affix(s, a, false); }},
      {"replace",
       [](R r, V s, A a) {
         return r.string(replaced(s.text(), text_argument(a, 0, "old"), text_argument(a, 1, "new"),
                                  integer_argument(a, 2, "count", -1)));
       }},
      {"upper", [](R r, V s, A) { return r.string(mapped(s.text(), to_upper)); }},
      {"lower", [](R r, V s, A) { return r.string(mapped(s.text(), to_lower)); }},
      {"casefold", [](R r, V s, A) { return r.string(mapped(s.text(), to_lower)); }},
      {"swapcase", [](R r, V s, A) { return r.string(swapped(s.text())); }},
      {"title", [](R r, V s, A) { return r.string(cased(s.text(), true)); }},
      {"capitalize", [](R r, V s, A) { return r.string(cased(s.text(), false)); }},
      {"find", [](R, V s, A a) { return find(s, a, false, false); }},
      {"rfind", [](R, V s, A a) { return find(s, a, true, false); }},
      {"index", [](R, V s, A a) { return find(s, a, false, true); }},
      {"rindex", [](R, V s, A a) { return find(s, a, true, true); }},
      {"count", [](R, V s, A a) { return Value::integer(count_text(s, a)); }},
      {"join", [](R r, V s, A a) { return join(r, s, a); }},
      {"format", [](R r, V s, A a) { return format_braces(r, s, a); }},
      {"partition", [](R, V s, A a) { return partition(s, a, false); }},
      {"rpartition", [](R, V s, A a) { return partition(s, a, true); }},
      {"removeprefix",
       [](R, V s, A a) {
         const std::string& p = text_argument(a, 0, "prefix").bytes();
         return s.bytes().starts_with(p) ? Value::string(s.text().substr(p.size(), s.text().size())) : s;
       }},
      {"removesuffix",
       [](R, V s, A a) {
         const std::string& p = text_argument(a, 0, "suffix").bytes();
         return s.bytes().ends_with(p) ? Value::string(s.text().substr(0, s.text().size() - p.size())) : s;
       }},
      {"ljust", [](R r, V s, A a) { return padded(r, s, a, false, true); }},
      {"rjust", [](R r, V s, A a) { return padded(r, s, a, true, false); }},
      {"center", [](R r, V s, A a) { return padded(r, s, a, true, true); }},
      {"isdigit", [](R, V s, A) { return Value::boolean(all_of(s, is_digit)); }},
      {"isdecimal", [](R, V s, A) { return Value::boolean(all_of(s, is_digit)); }},
      {"isalpha", [](R, V s, A) { return Value::boolean(all_of(s, is_alphabetic)); }},
      {"isalnum",
       [](R, V s, A) {
         return Value::boolean(all_of(s, [](char32_t c) { return is_alphabetic(c) || is_digit(c); }));
       }},
      {"isspace", [](R, V s, A) { return Value::boolean(all_of(s, is_space)); }},
      {"isupper", [](R, V s, A) { return Value::boolean(has_case(s, is_upper, is_lower)); }},
      {"islower", [](R, V s, A) { return Value::boolean(has_case(s, is_lower, is_upper)); }},
  };
  return kMethods;
}

Value pairs(const Value& self) {
  std::vector<Value> out;
  for (const auto& [key, value] : self.as_dict().items)
    out.push_back(Value::list({key, value}, ListKind::tuple, self.origin()));
  return Value::list(std::move(out), ListKind::view, self.origin());
}

const std::vector<std::pair<std::string_view, Method>>& dict_methods() {
  using R = Renderer&;
  using V = const Value&;
  using A = Arguments&;
  static const std::vector<std::pair<std::string_view, Method>> kMethods = {
      {"items", [](R, V s, A) { return pairs(s); }},
      {"keys", [](R, V s, A) { return Value::list(iterate(s), ListKind::view, s.origin()); }},
      {"values",
       [](R, V s, A) {
         std::vector<Value> out;
         for (const auto& item : s.as_dict().items) out.push_back(item.second);
         return Value::list(std::move(out), ListKind::view, s.origin());
       }},
      {"get",
       [](R, V s, A a) {
         const Value* key = argument(a, 0, "key");
         if (!key) value_error("get needs a key");
         if (const Value* value = s.as_dict().find(*key)) return *value;
         const Value* fallback = argument(a, 1, "default");
         return fallback ? *fallback : Value::none();
       }},
      {"copy", [](R, V s, A) { return s; }},
      {"pop", unsafe},
      {"popitem", unsafe},
      {"update", unsafe},
      {"setdefault", unsafe},
      {"clear", unsafe},
  };
  return kMethods;
}

const std::vector<std::pair<std::string_view, Method>>& list_methods() {
  using R = Renderer&;
  using V = const Value&;
  using A = Arguments&;
  static const std::vector<std::pair<std::string_view, Method>> kMethods = {
      {"index",
       [](R, V s, A a) {
         const Value* wanted = argument(a, 0, "value");
         const auto& items = s.as_list().items;
         for (size_t i = 0; wanted && i < items.size(); ++i)
           if (equal(items[i], *wanted)) return Value::integer(static_cast<int64_t>(i));
         value_error("index: the value is not in the list");
       }},
      {"count",
       [](R, V s, A a) {
         const Value* wanted = argument(a, 0, "value");
         int64_t count = 0;
         for (const Value& item : s.as_list().items) count += wanted && equal(item, *wanted);
         return Value::integer(count);
       }},
      {"copy", [](R, V s, A) { return s; }},
      {"append", unsafe},
      {"extend", unsafe},
      {"insert", unsafe},
      {"pop", unsafe},
      {"remove", unsafe},
      {"clear", unsafe},
      {"sort", unsafe},
      {"reverse", unsafe},
  };
  return kMethods;
}

}  // namespace

Value method(const Value& object, const std::string& name) {
  const std::vector<std::pair<std::string_view, Method>>* methods = nullptr;
  if (object.is_string()) methods = &string_methods();
  if (object.is(Kind::dict)) methods = &dict_methods();
  if (object.is(Kind::list) &&
      (object.as_list().kind == ListKind::list || object.as_list().kind == ListKind::tuple))
    methods = &list_methods();
  if (!methods) return {};
  for (const auto& [known, function] : *methods)
    if (known == name)
      return Value::callable(name, [object, function = function](Renderer& r, Arguments& args) {
        return function(r, object, args);
      });
  return {};
}

}  // namespace attune::text::jinja
