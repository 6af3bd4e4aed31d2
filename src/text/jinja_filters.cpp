// Filters: what stands behind '|'.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_render.h"
#include "text/jinja_unicode.h"

namespace attune::text::jinja {
namespace {

using R = Renderer&;
using V = const Value&;
using A = Arguments&;
using Filter = Value (*)(R, V, A);

bool flag(A args, size_t index, const char* name, bool fallback = false) {
  const Value* value = argument(args, index, name);
  return value ? truthy(*value) : fallback;
}

int64_t whole(A args, size_t index, const char* name, int64_t fallback) {
  const Value* value = argument(args, index, name);
  if (!value || value->is(Kind::none)) return fallback;
  if (!value->is(Kind::integer) && !value->is(Kind::boolean))
    value_error(std::string("argument '") + name + "' must be an integer, not " + type_name(*value));
  return value->as_integer();
}

Text text_of(A args, size_t index, const char* name, std::string_view fallback) {
  const Value* value = argument(args, index, name);
  return value ? to_text(*value) : Text(fallback, {});
}

std::vector<Value> elements(R r, V value) {
  std::vector<Value> out = iterate(value);
  r.charge(static_cast<int64_t>(out.size()));
  return out;
}

// "a.b.0" as jinja's make_attrgetter reads it.
Value by_path(R r, V object, V path) {
  if (path.is(Kind::integer)) return r.item(object, path);
  const std::string& text = path.bytes();
  Value value = object;
  for (size_t at = 0; at <= text.size();) {
    const size_t dot = std::min(text.find('.', at), text.size());
    const std::string part = text.substr(at, dot - at);
    const bool number =
        !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string::npos;
    value = r.item(value, number ? Value::integer(std::stoll(part)) : Value::literal(part));
    at = dot + 1;
  }
  return value;
}

Value folded(V value) {
  return value.is_string() ? Value::string(mapped(value.text(), to_lower)) : value;
}

Value join(R r, V value, A args) {
  const Text separator = text_of(args, 0, "d", "");
  const Value* path = argument(args, 1, "attribute");
  Text out;
  bool first = true;
  for (const Value& item : elements(r, value)) {
    if (!std::exchange(first, false)) out.append(separator);
    out.append(to_text(path && !path->is(Kind::none) ? by_path(r, item, *path) : item));
  }
  return r.string(std::move(out));
}

Value replace(R r, V value, A args) {
  const Value *from = argument(args, 0, "old"), *to = argument(args, 1, "new");
  if (!from || !to) value_error("replace needs an old and a new text");
  return r.string(replaced(to_text(value), to_text(*from), to_text(*to), whole(args, 2, "count", -1)));
}

// jinja's own title: words begin behind spaces, hyphens and opening brackets.
Value title(R r, V value, A) {
  const Text text = to_text(value);
  const std::string& bytes = text.bytes();
  Text out;
  bool begins = true;
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    const char32_t code = decode_at(bytes, at, next);
    out.append(begins ? to_upper(code) : to_lower(code), text.origin_at(at));
    begins = is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
  }
  return r.string(std::move(out));
}

Value capitalize(R r, V value, A) {
  const Text text = to_text(value);
  if (text.empty()) return Value::string(text);
  const std::vector<size_t> offsets = character_offsets(text.bytes());
  Text out = mapped(text.substr(0, offsets[1]), to_title);
  out.append(mapped(text.substr(offsets[1], text.size()), to_lower));
  return r.string(std::move(out));
}

Value fallback(R, V value, A args) {
  const Value* other = argument(args, 0, "default_value");
  if (value.is_undefined() || (flag(args, 1, "boolean") && !truthy(value)))
    return other ? *other : Value::literal("");
  return value;
}

Value first(R r, V value, A) {
  const std::vector<Value> items = elements(r, value);
  return items.empty() ? Value::undefined("No first item, sequence was empty: it") : items.front();
}

Value last(R r, V value, A) {
  if (value.is(Kind::list) && value.as_list().kind == ListKind::generator)
    value_error("last: a generator has no last element; put |list before it");
  const std::vector<Value> items = elements(r, value);
  return items.empty() ? Value::undefined("No last item, sequence was empty: it") : items.back();
}

Value reverse(R r, V value, A) {
  std::vector<Value> items = elements(r, value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return Value::list(std::move(items), ListKind::generator, value.origin());
  Text out;
  for (const Value& item : items) out.append(item.text());
  return r.string(std::move(out));
}

void sort_values(R r, std::vector<Value>& items, std::vector<Value> keys, bool descending) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  r.charge(static_cast<int64_t>(items.size()) * 16);
  // Python's reverse sort keeps equal elements in their order, as this does.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return descending ? less(keys[b], keys[a]) : less(keys[a], keys[b]);
  });
  std::vector<Value> out;
  for (size_t i : order) out.push_back(items[i]);
  items = std::move(out);
}

Value sort(R r, V value, A args) {
  std::vector<Value> items = elements(r, value), keys;
  const bool exact = flag(args, 1, "case_sensitive");
  const Value* path = argument(args, 2, "attribute");
  for (const Value& item : items) {
    Value key = path && !path->is(Kind::none) ? by_path(r, item, *path) : item;
    keys.push_back(exact ? key : folded(key));
  }
  sort_values(r, items, std::move(keys), flag(args, 0, "reverse"));
  return Value::list(std::move(items), ListKind::list, value.origin());
}

// [(key, items), …], sorted by key; what differs in case only is one group under the first item's key.
Value groupby(R r, V value, A args) {
  const Value* path = argument(args, 0, "attribute");
  if (!path) value_error("groupby needs an attribute");
  const Value* other = argument(args, 1, "default");
  const bool exact = flag(args, 2, "case_sensitive");
  std::vector<Value> items = elements(r, value), keys;
  const auto key_of = [&](V item) {
    Value key = by_path(r, item, *path);
    return key.is_undefined() && other ? *other : key;
  };
  for (const Value& item : items) keys.push_back(exact ? key_of(item) : folded(key_of(item)));
  sort_values(r, items, std::move(keys), false);
  std::vector<Value> groups, members;
  const auto finish = [&] {
    if (members.empty()) return;
    const Value key = key_of(members.front());
    groups.push_back(Value::list({key, Value::list(std::move(members), ListKind::list, value.origin())},
                                 ListKind::tuple, value.origin()));
    members.clear();
  };
  for (const Value& item : items) {
    const Value key = key_of(item);
    if (!members.empty()) {
      const Value last = key_of(members.back());
      if (!(exact ? equal(last, key) : equal(folded(last), folded(key)))) finish();
    }
    members.push_back(item);
  }
  finish();
  return Value::list(std::move(groups), ListKind::list, value.origin());
}

Value format(R r, V value, A args) {
  if (!args.named.empty()) value_error("the filter format with named values is not supported");
  return format_percent(r, to_text(value), Value::list(args.positional, ListKind::tuple, value.origin()));
}

Value dictsort(R r, V value, A args) {
  if (!value.is(Kind::dict)) value_error("dictsort needs a mapping, not " + type_name(value));
  const bool exact = flag(args, 0, "case_sensitive");
  const bool by_value = text_of(args, 1, "by", "key").bytes() == "value";
  std::vector<Value> items, keys;
  for (const auto& [key, item] : value.as_dict().items) {
    items.push_back(Value::list({key, item}, ListKind::tuple, value.origin()));
    keys.push_back(exact ? (by_value ? item : key) : folded(by_value ? item : key));
  }
  sort_values(r, items, std::move(keys), flag(args, 2, "reverse"));
  return Value::list(std::move(items), ListKind::list, value.origin());
}

Value unique(R r, V value, A args) {
  const bool exact = flag(args, 0, "case_sensitive");
  const Value* path = argument(args, 1, "attribute");
  std::vector<Value> out, seen;
  for (const Value& item : elements(r, value)) {
    Value key = path && !path->is(Kind::none) ? by_path(r, item, *path) : item;
    if (!exact) key = folded(key);
    if ((key.is(Kind::list) && key.as_list().kind != ListKind::tuple) || key.is(Kind::dict))
      value_error("unique cannot compare " + type_name(key));
    r.charge(static_cast<int64_t>(seen.size()));
    if (std::any_of(seen.begin(), seen.end(), [&](V other) { return equal(other, key); })) continue;
    seen.push_back(std::move(key));
    out.push_back(item);
  }
  return Value::list(std::move(out), ListKind::generator, value.origin());
}

Value extreme(R r, V value, A args, bool greatest) {
  const bool exact = flag(args, 0, "case_sensitive");
  const Value* path = argument(args, 1, "attribute");
  const std::vector<Value> items = elements(r, value);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty: it");
  const auto key = [&](V item) {
    Value k = path && !path->is(Kind::none) ? by_path(r, item, *path) : item;
    return exact ? k : folded(k);
  };
  const Value* best = &items[0];
  for (const Value& item : items)
    if (greatest ? less(key(*best), key(item)) : less(key(item), key(*best))) best = &item;
  return *best;
}

Value sum(R r, V value, A args) {
  const Value* path = argument(args, 0, "attribute");
  const Value* start = argument(args, 1, "start");
  Value total = start ? *start : Value::integer(0);
  for (const Value& item : elements(r, value))
    total = binary(r, "+", total, path && !path->is(Kind::none) ? by_path(r, item, *path) : item);
  return total;
}

Value map(R r, V value, A args) {
  std::vector<Value> out;
  const Value* path = argument(args, args.positional.size(), "attribute");
  if (args.positional.empty() && path) {
    const Value* other = argument(args, args.positional.size(), "default");
    for (const Value& item : elements(r, value)) {
      Value found = by_path(r, item, *path);
      out.push_back(found.is_undefined() && other ? *other : found);
    }
    return Value::list(std::move(out), ListKind::generator, value.origin());
  }
  if (args.positional.empty() || !args.positional[0].is_string())
    value_error("map needs the name of a filter or attribute=…");
  const std::string name = args.positional[0].bytes();
  for (const Value& item : elements(r, value)) {
    Arguments rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
    out.push_back(r.filter(name, item, rest));
  }
  return Value::list(std::move(out), ListKind::generator, value.origin());
}

Value select(R r, V value, A args, bool keep, bool by_attribute) {
  const size_t skip = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty())
    value_error("selectattr and rejectattr need the name of an attribute");
  std::vector<Value> out;
  for (const Value& item : elements(r, value)) {
    const Value subject = by_attribute ? by_path(r, item, args.positional[0]) : item;
    bool holds = false;
    if (args.positional.size() > skip) {
      Arguments rest{{args.positional.begin() + skip + 1, args.positional.end()}, args.named};
      holds = r.test(to_text(args.positional[skip]).bytes(), subject, rest);
    } else {
      holds = truthy(subject);
    }
    if (holds == keep) out.push_back(item);
  }
  return Value::list(std::move(out), ListKind::generator, value.origin());
}

Value items(R, V value, A) {
  std::vector<Value> out;
  if (value.is(Kind::dict)) {
    for (const auto& [key, item] : value.as_dict().items)
      out.push_back(Value::list({key, item}, ListKind::tuple, value.origin()));
  } else if (!value.is_undefined()) {
    value_error("items needs a mapping, not " + type_name(value));
  }
  return Value::list(std::move(out), ListKind::generator, value.origin());
}

Value tojson(R r, V value, A args) {
  JsonStyle style;
  style.ensure_ascii = flag(args, 0, "ensure_ascii");
  style.sort_keys = flag(args, 3, "sort_keys");
  if (const Value* indent = argument(args, 1, "indent"); indent && !indent->is(Kind::none)) {
    style.has_indent = true;
    style.item_separator = ",";
    style.indent = indent->is_string() ? indent->bytes()
                                       : std::string(std::clamp<int64_t>(indent->as_integer(), 0, 100), ' ');
  }
  if (const Value* separators = argument(args, 2, "separators"); separators && !separators->is(Kind::none)) {
    const std::vector<Value> pair = iterate(*separators);
    if (pair.size() != 2) value_error("tojson: separators needs two strings");
    style.item_separator = to_text(pair[0]).bytes();
    style.key_separator = to_text(pair[1]).bytes();
  }
  r.charge(value.weight());
  return r.string(to_json(value, style));
}

Value to_real(R, V value, A args) {
  if (value.is_number()) return Value::real(value.as_real());
  if (value.is_undefined()) value_error(value.missing() + " is undefined");
  if (value.is_string()) {
    const Text text = stripped(value.text(), nullptr, true, true);
    double number = 0;
    const auto result = std::from_chars(text.bytes().data(), text.bytes().data() + text.size(), number);
    if (result.ec == std::errc() && result.ptr == text.bytes().data() + text.size() && !text.empty())
      return Value::real(number);
  }
  const Value* other = argument(args, 0, "default");
  return other ? *other : Value::real(0);
}

Value to_integer(R r, V value, A args) {
  if (value.is(Kind::integer) || value.is(Kind::boolean)) return Value::integer(value.as_integer());
  const Value* other = argument(args, 0, "default");
  const int64_t base = whole(args, 1, "base", 10);
  if (value.is_string()) {
    const Text text = stripped(value.text(), nullptr, true, true);
    std::string_view digits = text.bytes();
    if (base == 16 && (digits.starts_with("0x") || digits.starts_with("0X"))) digits.remove_prefix(2);
    if (digits.starts_with("+")) digits.remove_prefix(1);
    int64_t number = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), number,
                                        static_cast<int>(std::clamp<int64_t>(base, 2, 36)));
    if (result.ec == std::errc() && result.ptr == digits.data() + digits.size() && !digits.empty())
      return Value::integer(number);
  }
  Arguments none;
  none.positional.push_back(Value::none());
  const Value real = to_real(r, value, none);
  if (real.is(Kind::real) && std::fabs(real.as_real()) < 9e18)
    return Value::integer(static_cast<int64_t>(real.as_real()));
  return other ? *other : Value::integer(0);
}

Value absolute(R r, V value, A) {
  if (!value.is_number()) value_error("abs needs a number, not " + type_name(value));
  if (value.is(Kind::real)) return Value::real(std::fabs(value.as_real()));
  return value.as_integer() < 0 ? binary(r, "-", Value::integer(0), value)
                                : Value::integer(value.as_integer());
}

Value rounded(R, V value, A args) {
  if (!value.is_number()) value_error("round needs a number, not " + type_name(value));
  const int64_t digits = std::clamp<int64_t>(whole(args, 0, "precision", 0), -300, 300);
  const std::string how = text_of(args, 1, "method", "common").bytes();
  const double scale = std::pow(10.0, static_cast<double>(digits));
  if (how == "ceil") return Value::real(std::ceil(value.as_real() * scale) / scale);
  if (how == "floor") return Value::real(std::floor(value.as_real() * scale) / scale);
  // Python's round goes through the decimal form, to even.
  char buffer[512];
  if (digits < 0) return Value::real(std::nearbyint(value.as_real() * scale) / scale);
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(std::min<int64_t>(digits, 100)),
                value.as_real());
  const double out = std::strtod(buffer, nullptr);  // does not mind numbers next to zero
  return value.is(Kind::real) ? Value::real(out) : Value::integer(value.as_integer());
}

Value indent(R r, V value, A args) {
  const Value* width = argument(args, 0, "width");
  const std::string prefix = width && width->is_string()
                                 ? width->bytes()
                                 : std::string(std::clamp<int64_t>(whole(args, 0, "width", 4), 0, 1000), ' ');
  const bool at_first = flag(args, 1, "first"), blank = flag(args, 2, "blank");
  if (!value.is_string() && !value.is_undefined())
    value_error("indent needs a string, not " + type_name(value));
  Text text = to_text(value);
  text.append("\n", {});  // as jinja2: a final newline stays one
  const Value lines = split_lines(text, false);
  Text out;
  for (size_t i = 0; i < lines.as_list().items.size(); ++i) {
    const Text& line = lines.as_list().items[i].text();
    if (i > 0) out.append("\n", {});
    if (i == 0 ? at_first : blank || !line.empty()) out.append(prefix, {});
    out.append(line);
  }
  return r.string(std::move(out));
}

Value escape(R r, V value, A) {
  if (value.is_string() && value.text().markup) return value;
  Text empty;
  empty.markup = true;
  return binary(r, "+", Value::string(empty), Value::string(to_text(value)));
}

Value safe(R r, V value, A) {
  Text text = to_text(value);
  text.markup = true;
  return r.string(std::move(text));
}

Value batch(R r, V value, A args) {
  const int64_t size = whole(args, 0, "linecount", 1);
  if (size < 1) value_error("batch needs a size of at least 1");
  const Value* fill = argument(args, 1, "fill_with");
  std::vector<Value> out, row;
  for (Value& item : elements(r, value)) {
    if (static_cast<int64_t>(row.size()) == size) out.push_back(Value::list(std::exchange(row, {})));
    row.push_back(std::move(item));
  }
  if (!row.empty()) {
    if (fill && !fill->is(Kind::none)) {
      r.charge(size);
      row.resize(std::min<int64_t>(size, 100'000), *fill);
    }
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out), ListKind::generator, value.origin());
}

Value word_count(R, V value, A) {
  const Text text = to_text(value);
  int64_t count = 0;
  bool inside = false;
  for (size_t at = 0, next = 0; at < text.size(); at = next) {
    const char32_t code = decode_at(text.bytes(), at, next);
    const bool word = is_alphabetic(code) || is_digit(code) || code == '_';
    count += word && !inside;
    inside = word;
  }
  return Value::integer(count);
}

Value as_list(R r, V value, A) {
  return Value::list(elements(r, value), ListKind::list, value.origin());
}
Value as_string(R r, V value, A) {
  return value.is_string() ? value : r.string(to_text(value));
}
Value count(R, V value, A) {
  return Value::integer(length(value));
}
Value trim(R r, V value, A args) {
  return r.string(stripped(to_text(value), argument(args, 0, "chars"), true, true));
}
Value center(R r, V value, A args) {
  Arguments width;
  width.positional.push_back(Value::integer(whole(args, 0, "width", 80)));
  return r.call(r.attribute(as_string(r, value, args), "center"), width);
}
Value attr(R r, V value, A args) {
  if (args.positional.empty()) value_error("attr needs a name");
  const std::string name = to_text(args.positional[0]).bytes();
  if (Value found = method(value, name); !found.is_undefined()) return found;
  return value.is(Kind::space) || value.is(Kind::loop) ? r.attribute(value, name)
                                                       : Value::undefined("attribute '" + name + "'");
}

const std::map<std::string, Filter, std::less<>>& filters() {
  static const std::map<std::string, Filter, std::less<>> kFilters = {
      {"abs", absolute},
      {"attr", attr},
      {"batch", batch},
      {"capitalize", capitalize},
      {"center", center},
      {"count", count},
      {"length", count},
      {"d", fallback},
      {"default", fallback},
      {"dictsort", dictsort},
      {"e", escape},
      {"escape", escape},
      {"first", first},
      {"float", to_real},
      {"format", format},
      {"groupby", groupby},
      {"indent", indent},
      {"int", to_integer},
      {"items", items},
      {"join", join},
      {"last", last},
      {"list", as_list},
      {"lower", [](R r, V v, A) { return r.string(mapped(to_text(v), to_lower)); }},
      {"upper", [](R r, V v, A) { return r.string(mapped(to_text(v), to_upper)); }},
      {"map", map},
      {"max", [](R r, V v, A a) { return extreme(r, v, a, true); }},
      {"min", [](R r, V v, A a) { return extreme(r, v, a, false); }},
      {"select", [](R r, V v, A a) { return select(r, v, a, true, false); }},
      {"reject", [](R r, V v, A a) { return select(r, v, a, false, false); }},
      {"selectattr", [](R r, V v, A a) { return select(r, v, a, true, true); }},
      {"rejectattr", [](R r, V v, A a) { return select(r, v, a, false, true); }},
      {"replace", replace},
      {"reverse", reverse},
      {"round", rounded},
      {"safe", safe},
      {"sort", sort},
      {"string", as_string},
      {"sum", sum},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"unique", unique},
      {"wordcount", word_count},
  };
  return kFilters;
}

}  // namespace

Value Renderer::filter(const std::string& name, const Value& value, Arguments& arguments) {
  const auto found = filters().find(name);
  if (found == filters().end()) value_error("the filter '" + name + "' is not supported in chat templates");
  charge(value.is_string() ? value.weight() : 1);
  return found->second(*this, value, arguments);
}

}  // namespace attune::text::jinja
