#include "text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/jinja_unicode.h"
#include "util/error.h"

namespace attune::text::jinja {

Origin Text::origin_at(size_t position) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), position,
                                    [](size_t at, const Run& r) { return at < r.end; });
  return run == runs_.end() ? Origin{} : run->origin;
}

Origin Text::origin() const {
  for (const Run& run : runs_)
    if (run.origin.from_user()) return run.origin;
  return runs_.empty() ? Origin{} : runs_.front().origin;
}

void Text::append(std::string_view bytes, Origin origin) {
  if (bytes.empty()) return;
  if (bytes.size() > kMaxTextBytes - bytes_.size()) value_error("a text grows beyond 64 MiB");
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), origin});
  }
}

void Text::append(const Text& other, size_t begin, size_t end) {
  if (begin >= end) return;
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), begin,
                              [](size_t at, const Run& r) { return at < r.end; });
  for (size_t at = begin; at < end; ++run) {
    const size_t stop = std::min(run->end, end);
    append(std::string_view(other.bytes_).substr(at, stop - at), run->origin);
    at = stop;
  }
}

Text Text::substr(size_t begin, size_t end) const {
  Text out;
  out.append(*this, begin, std::min(end, size()));
  out.markup = markup;
  return out;
}

void Text::mark_generated() {
  for (Run& run : runs_) run.origin.generated = true;
}

namespace {

void check_size(int depth, int64_t weight) {
  if (depth > kMaxValueDepth) value_error("a value is nested too deeply");
  if (weight > kMaxValueWeight) value_error("a value has too many elements");
}

}  // namespace

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items)
    if (name.is_string() && name.bytes() == key) return &value;
  return nullptr;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : items)
    if (equal(name, key)) return &value;
  return nullptr;
}

void Dict::set(Value key, Value value) {
  if (items.size() > 100'000) value_error("a mapping has more than 100000 entries");
  depth = std::max(depth, value.depth() + 1);
  weight += value.weight() + 1;
  check_size(depth, weight);
  for (auto& [name, old] : items) {
    if (!equal(name, key)) continue;
    old = std::move(value);
    return;
  }
  items.emplace_back(std::move(key), std::move(value));
}

Value Value::undefined(std::string what) {
  Value v;
  if (!what.empty()) v.object_ = std::make_shared<const std::string>(std::move(what));
  return v;
}
Value Value::none() {
  Value v;
  v.kind_ = Kind::none;
  return v;
}
Value Value::boolean(bool value) {
  Value v;
  v.kind_ = Kind::boolean;
  v.integer_ = value;
  return v;
}
Value Value::integer(int64_t value) {
  Value v;
  v.kind_ = Kind::integer;
  v.integer_ = value;
  return v;
}
Value Value::real(double value) {
  Value v;
  v.kind_ = Kind::real;
  v.real_ = value;
  return v;
}
Value Value::string(Text text) {
  Value v;
  v.kind_ = Kind::string;
  v.object_ = std::make_shared<const Text>(std::move(text));
  return v;
}
Value Value::list(std::vector<Value> items, ListKind kind, Origin origin) {
  auto list = std::make_shared<List>();
  list->kind = kind;
  list->origin = origin;
  for (const Value& item : items) {
    list->depth = std::max(list->depth, item.depth() + 1);
    list->weight += item.weight();
  }
  check_size(list->depth, list->weight);
  list->items = std::move(items);
  Value v;
  v.kind_ = Kind::list;
  v.origin_ = origin;
  v.object_ = std::move(list);
  return v;
}
Value Value::dict(std::shared_ptr<Dict> dict) {
  for (const auto& [key, value] : dict->items) {
    dict->depth = std::max(dict->depth, value.depth() + 1);
    dict->weight += key.weight() + value.weight();
  }
  check_size(dict->depth, dict->weight);
  Value v;
  v.kind_ = Kind::dict;
  v.origin_ = dict->origin;
  v.object_ = std::move(dict);
  return v;
}
Value Value::space(std::shared_ptr<Dict> dict) {
  Value v = Value::dict(std::move(dict));
  v.kind_ = Kind::space;
  return v;
}
Value Value::callable(std::string name, std::function<Value(Renderer&, Arguments&)> function) {
  Value v;
  v.kind_ = Kind::callable;
  v.object_ = std::make_shared<const Callable>(Callable{std::move(name), std::move(function)});
  return v;
}
Value Value::loop(std::shared_ptr<Loop> loop) {
  Value v;
  v.kind_ = Kind::loop;
  v.object_ = std::move(loop);
  return v;
}

Value Value::from_json(const Json& json, Origin origin) {
  Value v;
  if (json.is_null()) {
    v = none();
  } else if (json.is_boolean()) {
    v = boolean(json.get<bool>());
  } else if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) {
    value_error("an integer is too large: " + json.dump());
  } else if (json.is_number_integer()) {
    v = integer(json.get<int64_t>());
  } else if (json.is_number_float()) {
    v = real(json.get<double>());
  } else if (json.is_string()) {
    v = string(Text(json.get_ref<const std::string&>(), origin));
  } else if (json.is_array()) {
    std::vector<Value> items;
    for (const Json& item : json) items.push_back(from_json(item, origin));
    v = list(std::move(items), ListKind::list, origin);
  } else {
    auto object = std::make_shared<Dict>();
    object->origin = origin;
    for (const auto& [key, item] : json.items())
      object->items.emplace_back(string(Text(key, origin)), from_json(item, origin));
    v = dict(std::move(object));
  }
  v.origin_ = origin;
  return v;
}

const std::string& Value::missing() const {
  static const std::string kUnknown = "a value";
  return object_ ? *static_cast<const std::string*>(object_.get()) : kUnknown;
}

int Value::depth() const {
  if (kind_ == Kind::list) return as_list().depth;
  if (kind_ == Kind::dict || kind_ == Kind::space) return as_dict().depth;
  return 0;
}

int64_t Value::weight() const {
  if (kind_ == Kind::list) return as_list().weight;
  if (kind_ == Kind::dict || kind_ == Kind::space) return as_dict().weight;
  return kind_ == Kind::string ? 1 + static_cast<int64_t>(text().size() / 64) : 1;
}

void value_error(const std::string& what) {
  refuse("{}", what);
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "an undefined value";
    case Kind::none:
      return "None";
    case Kind::boolean:
      return "a boolean";
    case Kind::integer:
      return "an integer";
    case Kind::real:
      return "a float";
    case Kind::string:
      return "a string";
    case Kind::list:
      switch (value.as_list().kind) {
        case ListKind::tuple:
          return "a tuple";
        case ListKind::generator:
          return "a generator";
        case ListKind::range:
          return "a range";
        case ListKind::view:
          return "a dict view";
        default:
          return "a list";
      }
    case Kind::dict:
      return "a mapping";
    case Kind::space:
      return "a namespace";
    case Kind::callable:
      return "a function";
    case Kind::loop:
      return "the loop object";
  }
  return "a value";
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::real:
      return value.as_real() != 0;
    case Kind::string:
      return !value.bytes().empty();
    case Kind::list:
      return value.as_list().kind == ListKind::generator || !value.as_list().items.empty();
    case Kind::dict:
      return !value.as_dict().items.empty();
    default:
      return true;
  }
}

namespace {

bool sequence_equal(const List& a, const List& b) {
  if (a.kind != b.kind || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i)
    if (!equal(a.items[i], b.items[i])) return false;
  return true;
}

}  // namespace

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::real) || b.is(Kind::real)) return a.as_real() == b.as_real();
    return a.as_integer() == b.as_integer();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
      return a.bytes() == b.bytes();
    case Kind::list:
      return a.identity() == b.identity() || sequence_equal(a.as_list(), b.as_list());
    case Kind::dict: {
      if (a.identity() == b.identity()) return true;
      if (a.as_dict().items.size() != b.as_dict().items.size()) return false;
      for (const auto& [key, value] : a.as_dict().items) {
        const Value* other = b.as_dict().find(key);
        if (!other || !equal(value, *other)) return false;
      }
      return true;
    }
    default:
      return a.identity() == b.identity();
  }
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::real) || b.is(Kind::real)) return a.as_real() < b.as_real();
    return a.as_integer() < b.as_integer();
  }
  // UTF-8 sorts as its code points do.
  if (a.is_string() && b.is_string()) return a.bytes() < b.bytes();
  if (a.is(Kind::list) && b.is(Kind::list) && a.as_list().kind == b.as_list().kind) {
    const auto &left = a.as_list().items, &right = b.as_list().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i)
      if (!equal(left[i], right[i])) return less(left[i], right[i]);
    return left.size() < right.size();
  }
  if (a.is_undefined()) value_error(a.missing() + " is undefined");
  if (b.is_undefined()) value_error(b.missing() + " is undefined");
  value_error("'<' cannot compare " + type_name(a) + " with " + type_name(b));
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::undefined:
      return false;
    case Kind::string:
      if (!item.is_string())
        value_error("'in' on a string needs a string on its left, not " + type_name(item));
      return container.bytes().find(item.bytes()) != std::string::npos;
    case Kind::list:
      for (const Value& element : container.as_list().items)
        if (equal(element, item)) return true;
      return false;
    case Kind::dict:
      return container.as_dict().find(item) != nullptr;
    default:
      value_error("'in' needs a string, list or mapping on its right, not " + type_name(container));
  }
}

std::string format_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const double magnitude = std::fabs(value);
  const bool plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value,
                                    plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string out(buffer, result.ptr);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

Text to_text(const Value& value) {
  Text out;
  switch (value.kind()) {
    case Kind::undefined:
      break;
    case Kind::string:
      return value.text();
    default:
      append_repr(value, out);
  }
  return out;
}

namespace {

void append_string_repr(const Text& text, Text& out) {
  const std::string& bytes = text.bytes();
  const char quote =
      bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos ? '"' : '\'';
  out.append(std::string(1, quote), text.origin());
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    char escape[16] = "";
    if (code == '\n' || code == '\r' || code == '\t') {
      std::snprintf(escape, sizeof escape, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
    } else if (code == '\\' || code == static_cast<char32_t>(quote)) {
      std::snprintf(escape, sizeof escape, "\\%c", static_cast<char>(code));
    } else if (!is_printable(code)) {
      std::snprintf(escape, sizeof escape,
                    code < 0x100     ? "\\x%02x"
                    : code < 0x10000 ? "\\u%04x"
                                     : "\\U%08x",
                    static_cast<unsigned>(code));
    }
    if (escape[0]) {
      out.append(escape, text.origin_at(at));
    } else {
      out.append(text, at, next);
    }
  }
  out.append(std::string(1, quote), text.origin());
}

void append_list_repr(const List& list, Text& out) {
  if (list.kind == ListKind::generator || list.kind == ListKind::view)
    value_error("a generator or dict view is printed as text; put |list before it is printed");
  if (list.kind == ListKind::range) value_error("a range is printed as text; put |list before it is printed");
  const bool tuple = list.kind == ListKind::tuple;
  out.append(tuple ? "(" : "[", list.origin);
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i) out.append(", ", list.origin);
    append_repr(list.items[i], out);
  }
  out.append(tuple ? (list.items.size() == 1 ? ",)" : ")") : "]", list.origin);
}

}  // namespace

void append_repr(const Value& value, Text& out) {
  switch (value.kind()) {
    case Kind::undefined:
      out.append("Undefined", {});
      break;
    case Kind::none:
      out.append("None", value.origin());
      break;
    case Kind::boolean:
      out.append(value.as_bool() ? "True" : "False", value.origin());
      break;
    case Kind::integer:
      out.append(std::to_string(value.as_integer()), value.origin());
      break;
    case Kind::real:
      out.append(format_real(value.as_real()), value.origin());
      break;
    case Kind::string:
      append_string_repr(value.text(), out);
      break;
    case Kind::list:
      append_list_repr(value.as_list(), out);
      break;
    case Kind::dict: {
      const Dict& dict = value.as_dict();
      out.append("{", dict.origin);
      bool first = true;
      for (const auto& [key, item] : dict.items) {
        if (!first) out.append(", ", dict.origin);
        first = false;
        append_repr(key, out);
        out.append(": ", dict.origin);
        append_repr(item, out);
      }
      out.append("}", dict.origin);
      break;
    }
    default:
      value_error(type_name(value) + " is printed as text");
  }
}

bool iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is(Kind::list) || value.is(Kind::dict) ||
         value.is(Kind::loop);
}

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> out;
  switch (value.kind()) {
    case Kind::undefined:
      return out;
    case Kind::list:
      return value.as_list().items;
    case Kind::dict:
      for (const auto& item : value.as_dict().items) out.push_back(item.first);
      return out;
    case Kind::string: {
      const std::vector<size_t> offsets = character_offsets(value.bytes());
      for (size_t i = 0; i + 1 < offsets.size(); ++i)
        out.push_back(Value::string(value.text().substr(offsets[i], offsets[i + 1])));
      return out;
    }
    default:
      value_error(type_name(value) + " cannot be iterated; expected a list, a mapping or a string");
  }
}

int64_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return count_characters(value.bytes());
    case Kind::dict:
      return static_cast<int64_t>(value.as_dict().items.size());
    case Kind::loop:
      return static_cast<int64_t>(value.as_loop().items.size());
    case Kind::list:
      if (value.as_list().kind != ListKind::generator)
        return static_cast<int64_t>(value.as_list().items.size());
      [[fallthrough]];
    default:
      value_error(type_name(value) + " has no length; expected a string, a list or a mapping");
  }
}

}  // namespace attune::text::jinja
