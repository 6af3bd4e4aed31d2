// Tests (behind `is`), global functions and the attributes of `loop`.
#include <cmath>
#include <ctime>

#include "text/jinja_render.h"
#include "text/jinja_unicode.h"
#include "util/error.h"

namespace attune::text::jinja {
namespace {

using V = const Value&;
using Test = bool (*)(Renderer&, V, Arguments&);

const Value& other(Arguments& args) {
  if (args.positional.empty()) value_error("a test needs the value to compare with");
  return args.positional[0];
}

bool is_sequence(V v) {
  return v.is_undefined() || v.is_string() || v.is(Kind::dict) ||
         (v.is(Kind::list) && v.as_list().kind != ListKind::generator && v.as_list().kind != ListKind::view);
}

int64_t whole(V v) {
  if (v.is_undefined()) value_error(v.missing() + " is undefined");
  if (!v.is(Kind::integer) && !v.is(Kind::boolean))
    value_error("a test needs an integer, not " + type_name(v));
  return v.as_integer();
}

bool cased(V v, bool (*wanted)(char32_t), bool (*unwanted)(char32_t)) {
  const Text text = to_text(v);
  bool found = false;
  for (size_t at = 0, next = 0; at < text.size(); at = next) {
    const char32_t code = decode_at(text.bytes(), at, next);
    if (unwanted(code)) return false;
    found |= wanted(code);
  }
  return found;
}

bool same(V a, V b) {
  if (a.kind() != b.kind()) return false;
  if (a.identity() || b.identity()) return a.identity() == b.identity();
  return equal(a, b);
}

const std::map<std::string, Test, std::less<>>& tests() {
  using R = Renderer&;
  using A = Arguments&;
  static const Test kEq = [](R, V v, A a) { return equal(v, other(a)); };
  static const Test kNe = [](R, V v, A a) { return !equal(v, other(a)); };
  static const Test kLt = [](R, V v, A a) { return less(v, other(a)); };
  static const Test kGt = [](R, V v, A a) { return less(other(a), v); };
  static const Test kLe = [](R, V v, A a) { return less(v, other(a)) || equal(v, other(a)); };
  static const Test kGe = [](R, V v, A a) { return less(other(a), v) || equal(v, other(a)); };
  static const std::map<std::string, Test, std::less<>> kTests = {
      {"defined", [](R, V v, A) { return !v.is_undefined(); }},
      {"undefined", [](R, V v, A) { return v.is_undefined(); }},
      {"none", [](R, V v, A) { return v.is(Kind::none); }},
      {"boolean", [](R, V v, A) { return v.is(Kind::boolean); }},
      {"true", [](R, V v, A) { return v.is(Kind::boolean) && v.as_bool(); }},
      {"false", [](R, V v, A) { return v.is(Kind::boolean) && !v.as_bool(); }},
      {"integer", [](R, V v, A) { return v.is(Kind::integer); }},
      {"float", [](R, V v, A) { return v.is(Kind::real); }},
      {"number", [](R, V v, A) { return v.is_number(); }},
      {"string", [](R, V v, A) { return v.is_string(); }},
      {"mapping", [](R, V v, A) { return v.is(Kind::dict); }},
      {"sequence", [](R, V v, A) { return is_sequence(v); }},
      {"iterable", [](R, V v, A) { return iterable(v); }},
      {"callable", [](R, V v, A) { return v.is(Kind::callable) || v.is(Kind::loop); }},
      {"escaped", [](R, V v, A) { return v.is_string() && v.text().markup; }},
      {"lower", [](R, V v, A) { return cased(v, is_lower, is_upper); }},
      {"upper", [](R, V v, A) { return cased(v, is_upper, is_lower); }},
      {"even", [](R, V v, A) { return whole(v) % 2 == 0; }},
      {"odd", [](R, V v, A) { return whole(v) % 2 != 0; }},
      {"divisibleby",
       [](R, V v, A a) {
         const int64_t by = whole(other(a));
         if (by == 0) value_error("division by zero");
         return by == -1 || whole(v) % by == 0;
       }},
      {"sameas", [](R, V v, A a) { return same(v, other(a)); }},
      {"in", [](R, V v, A a) { return contains(other(a), v); }},
      {"eq", kEq},
      {"equalto", kEq},
      {"==", kEq},
      {"ne", kNe},
      {"!=", kNe},
      {"lt", kLt},
      {"lessthan", kLt},
      {"<", kLt},
      {"gt", kGt},
      {"greaterthan", kGt},
      {">", kGt},
      {"le", kLe},
      {"<=", kLe},
      {"ge", kGe},
      {">=", kGe},
  };
  return kTests;
}

Value range(Renderer& r, Arguments& args) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = args.positional.size();
  if (count < 1 || count > 3) value_error("range takes one to three integers");
  for (size_t i = 0; i < count; ++i) bounds[count == 1 ? 1 : i] = whole(args.positional[i]);
  const auto [begin, end, step] = bounds;
  if (step == 0) value_error("range: the step is 0");
  const double size =
      std::ceil((static_cast<double>(end) - static_cast<double>(begin)) / static_cast<double>(step));
  if (size > static_cast<double>(r.limits().range))
    value_error("range: more than " + std::to_string(r.limits().range) + " numbers are not allowed");
  std::vector<Value> out;
  for (int64_t i = 0; i < static_cast<int64_t>(size); ++i) out.push_back(Value::integer(begin + i * step));
  r.charge(static_cast<int64_t>(out.size()));
  return Value::list(std::move(out), ListKind::range);
}

std::shared_ptr<Dict> dict_from(Arguments& args) {
  auto out = std::make_shared<Dict>();
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is(Kind::dict)) {
      out->items = from.as_dict().items;
      out->origin = from.as_dict().origin;
      out->message = from.as_dict().message;
    } else {
      for (const Value& pair : iterate(from)) {
        std::vector<Value> parts = iterate(pair);
        if (parts.size() != 2) value_error("dict: expected pairs of key and value");
        out->set(parts[0], parts[1]);
      }
    }
  }
  for (auto& [name, value] : args.named) out->set(Value::literal(name), value);
  return out;
}

Value raise(Renderer&, Arguments& args) {
  refuse("the template refuses this conversation: {}",
         args.positional.empty() ? std::string("(no reason given)") : to_text(args.positional[0]).bytes());
}

Value now(Renderer&, Arguments& args) {
  if (args.positional.empty() || !args.positional[0].is_string()) value_error("strftime_now needs a format");
  const std::time_t time = std::time(nullptr);
  std::tm local{};
  localtime_r(&time, &local);
  char buffer[512];
  const size_t size = std::strftime(buffer, sizeof buffer, args.positional[0].bytes().c_str(), &local);
  return Value::literal(std::string_view(buffer, size));
}

Value joiner(Renderer&, Arguments& args) {
  const Value* separator = argument(args, 0, "sep");
  auto used = std::make_shared<bool>(false);
  return Value::callable("joiner",
                         [used, text = separator ? *separator : Value::literal(", ")](Renderer&, Arguments&) {
                           return std::exchange(*used, true) ? text : Value::literal("");
                         });
}

}  // namespace

bool Renderer::test(const std::string& name, const Value& value, Arguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) value_error("the test '" + name + "' is not supported in chat templates");
  charge(value.weight() + (arguments.positional.empty() ? 0 : arguments.positional[0].weight()));
  return found->second(*this, value, arguments);
}

const std::map<std::string, Value, std::less<>>& builtin_functions() {
  static const std::map<std::string, Value, std::less<>> kFunctions = {
      {"range", Value::callable("range", range)},
      {"dict",
       Value::callable("dict", [](Renderer&, Arguments& args) { return Value::dict(dict_from(args)); })},
      {"namespace",
       Value::callable("namespace",
                       [](Renderer& r, Arguments& args) { return r.make_space(dict_from(args)); })},
      {"raise_exception", Value::callable("raise_exception", raise)},
      {"strftime_now", Value::callable("strftime_now", now)},
      {"joiner", Value::callable("joiner", joiner)},
  };
  return kFunctions;
}

Value loop_attribute(const Value& object, const std::string& name) {
  Loop& loop = object.as_loop();
  const int64_t index = static_cast<int64_t>(loop.index), size = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value::integer(index + 1);
  if (name == "index0") return Value::integer(index);
  if (name == "revindex") return Value::integer(size - index);
  if (name == "revindex0") return Value::integer(size - index - 1);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == size);
  if (name == "length") return Value::integer(size);
  if (name == "depth") return Value::integer(loop.depth);
  if (name == "depth0") return Value::integer(loop.depth - 1);
  if (name == "previtem")
    return index > 0 ? loop.items[index - 1] : Value::undefined("there is no previous item: it");
  if (name == "nextitem")
    return index + 1 < size ? loop.items[index + 1] : Value::undefined("there is no next item: it");
  if (name == "cycle")
    return Value::callable("cycle", [object](Renderer&, Arguments& args) {
      if (args.positional.empty()) value_error("loop.cycle needs values");
      return args.positional[object.as_loop().index % args.positional.size()];
    });
  if (name == "changed")
    return Value::callable("changed", [object](Renderer&, Arguments& args) {
      Loop& state = object.as_loop();
      Value now = Value::list(args.positional, ListKind::tuple);
      const bool changed = !state.has_changed || !equal(state.last_changed, now);
      state.last_changed = std::move(now);
      state.has_changed = true;
      return Value::boolean(changed);
    });
  return Value::undefined("loop has no attribute '" + name + "': it");
}

}  // namespace attune::text::jinja
