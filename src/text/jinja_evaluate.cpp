// Expressions: the part of the renderer that turns syntax into values.
#include <algorithm>
#include <cmath>

#include "text/jinja_render.h"
#include "text/jinja_unicode.h"

namespace attune::text::jinja {
namespace {

struct DepthGuard {
  explicit DepthGuard(int& depth, int limit) : depth(depth) {
    if (depth >= limit) value_error("the template nests calls or expressions too deeply");
    ++depth;
  }
  ~DepthGuard() { --depth; }
  int& depth;
};

std::string object_name(const Value& object) {
  switch (object.kind()) {
    case Kind::dict:
      return "'dict object'";
    case Kind::string:
      return "'str object'";
    case Kind::list:
      return "'list object'";
    case Kind::none:
      return "'None'";
    default:
      return type_name(object);
  }
}

}  // namespace

Value Renderer::evaluate(const Expr& expr) {
  DepthGuard guard(depth_, limits_.depth);
  charge(1);
  line_ = expr.line;
  return evaluate_kind(expr);
}

Value Renderer::evaluate_kind(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::constant:
      return expr.value;
    case ExprKind::name:
      return variable(expr);
    case ExprKind::tuple:
      return Value::list(values(expr, 0), ListKind::tuple);
    case ExprKind::list:
      return Value::list(values(expr, 0));
    case ExprKind::dict:
      return make_dict(expr);
    case ExprKind::conditional:
      if (truthy(evaluate(*expr.args[0]))) return evaluate(*expr.args[1]);
      return expr.args[2]
                 ? evaluate(*expr.args[2])
                 : Value::undefined(
                       "the inline if-expression evaluated to false and no else section was defined; it");
    case ExprKind::logical_or: {
      Value left = evaluate(*expr.args[0]);
      return truthy(left) ? left : evaluate(*expr.args[1]);
    }
    case ExprKind::logical_and: {
      Value left = evaluate(*expr.args[0]);
      return truthy(left) ? evaluate(*expr.args[1]) : left;
    }
    case ExprKind::logical_not:
      return Value::boolean(!truthy(evaluate(*expr.args[0])));
    case ExprKind::compare:
      return compare(expr);
    case ExprKind::negate:
      return binary(*this, "-", Value::integer(0), evaluate(*expr.args[0]));
    case ExprKind::plus:
      return binary(*this, "+", Value::integer(0), evaluate(*expr.args[0]));
    case ExprKind::binary: {
      const Value left = evaluate(*expr.args[0]);
      const Value right = evaluate(*expr.args[1]);
      line_ = expr.line;
      charge(left.is(Kind::list) ? left.weight() : 0);
      return binary(*this, expr.name, left, right);
    }
    case ExprKind::concat:
      return concat(expr);
    case ExprKind::attribute:
      return attribute(evaluate(*expr.args[0]), expr.name);
    case ExprKind::item:
      return subscript(expr);
    case ExprKind::slice:
      value_error("a slice stands outside of an index");
    case ExprKind::call: {
      const Value function = evaluate(*expr.args[0]);
      Arguments args = arguments(expr);
      line_ = expr.line;
      return call(function, args);
    }
    case ExprKind::filter: {
      const Value value = expr.args[0] ? evaluate(*expr.args[0]) : *scope_->find(" body");
      Arguments args = arguments(expr);
      line_ = expr.line;
      return filter(expr.name, value, args);
    }
    case ExprKind::test: {
      const Value value = evaluate(*expr.args[0]);
      Arguments args = arguments(expr);
      line_ = expr.line;
      return Value::boolean(test(expr.name, value, args));
    }
  }
  value_error("an expression is not supported");
}

Value Renderer::variable(const Expr& expr) {
  if (const Value* value = scope_->find(expr.name)) return *value;
  const auto& functions = builtin_functions();
  if (const auto found = functions.find(expr.name); found != functions.end()) return found->second;
  return Value::undefined("'" + expr.name + "'");
}

Value Renderer::compare(const Expr& expr) {
  Value left = evaluate(*expr.args[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.args[i + 1]);
    line_ = expr.line;
    charge(left.weight() + right.weight());
    const std::string& op = expr.operators[i];
    const bool holds = op == "=="   ? equal(left, right)
                       : op == "!=" ? !equal(left, right)
                       : op == "<"  ? less(left, right)
                       : op == ">"  ? less(right, left)
                       : op == "<=" ? less(left, right) || equal(left, right)
                       : op == ">=" ? less(right, left) || equal(left, right)
                       : op == "in" ? contains(right, left)
                                    : !contains(right, left);
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Renderer::concat(const Expr& expr) {
  Text out;
  for (const auto& part : expr.args) out.append(to_text(evaluate(*part)));
  return string(std::move(out));
}

std::vector<Value> Renderer::values(const Expr& expr, size_t begin) {
  std::vector<Value> out;
  for (size_t i = begin; i < expr.args.size(); ++i) out.push_back(evaluate(*expr.args[i]));
  return out;
}

Value Renderer::make_dict(const Expr& expr) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
    Value key = evaluate(*expr.args[i]);
    dict->set(std::move(key), evaluate(*expr.args[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Arguments Renderer::arguments(const Expr& expr) {
  Arguments out;
  out.positional = values(expr, 1);
  for (const auto& [name, value] : expr.named) out.named.emplace_back(name, evaluate(*value));
  if (expr.star)
    for (Value& value : iterate(evaluate(*expr.star))) out.positional.push_back(std::move(value));
  if (expr.star_star) {
    const Value more = evaluate(*expr.star_star);
    if (!more.is(Kind::dict)) value_error("** needs a mapping, not " + type_name(more));
    for (const auto& [name, value] : more.as_dict().items)
      out.named.emplace_back(to_text(name).bytes(), value);
  }
  return out;
}

Value Renderer::call(const Value& function, Arguments& args) {
  DepthGuard guard(depth_, limits_.depth);
  if (function.is_undefined()) value_error(function.missing() + " is undefined");
  if (function.is(Kind::loop)) {
    if (!function.as_loop().recurse) value_error("loop(…) needs {% for … recursive %}");
    return function.as_loop().recurse(*this, args);
  }
  if (!function.is(Kind::callable)) value_error(type_name(function) + " is called like a function");
  return function.as_callable().function(*this, args);
}

Value Renderer::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) value_error(object.missing() + " is undefined");
  if (name.starts_with("_")) return Value::undefined("access to '" + name + "' is not allowed; it");
  if (object.is(Kind::loop)) return loop_attribute(object, name);
  if (object.is(Kind::space)) {
    const Value* value = object.as_dict().find(name);
    return value ? *value : Value::undefined("namespace attribute '" + name + "'");
  }
  if (Value found = method(object, name); !found.is_undefined()) return found;
  if (object.is(Kind::dict))
    if (const Value* value = object.as_dict().find(name)) return *value;
  return Value::undefined(object_name(object) + " has no attribute '" + name + "': it");
}

Value Renderer::item(const Value& object, const Value& key) {
  if (object.is_undefined()) value_error(object.missing() + " is undefined");
  const bool whole = key.is(Kind::integer) || key.is(Kind::boolean);
  if (object.is(Kind::dict)) {
    charge(static_cast<int64_t>(object.as_dict().items.size() / 16));
    if (const Value* value = object.as_dict().find(key)) return *value;
  } else if (object.is_string() && whole) {
    const std::vector<size_t> offsets = character_offsets(object.bytes());
    charge(object.weight());
    const int64_t count = static_cast<int64_t>(offsets.size()) - 1;
    const int64_t at = key.as_integer() < 0 ? key.as_integer() + count : key.as_integer();
    if (at >= 0 && at < count) return Value::string(object.text().substr(offsets[at], offsets[at + 1]));
  } else if (object.is(Kind::list) && whole && object.as_list().kind != ListKind::generator &&
             object.as_list().kind != ListKind::view) {
    const auto& items = object.as_list().items;
    const int64_t count = static_cast<int64_t>(items.size());
    const int64_t at = key.as_integer() < 0 ? key.as_integer() + count : key.as_integer();
    if (at >= 0 && at < count) return items[at];
  }
  if (key.is_string()) return attribute(object, key.bytes());
  return Value::undefined(object_name(object) + " has no element " + to_text(key).bytes() + ": it");
}

Value Renderer::subscript(const Expr& expr) {
  const Value object = evaluate(*expr.args[0]);
  if (expr.args[1]->kind == ExprKind::slice) return slice(object, *expr.args[1]);
  const Value key = evaluate(*expr.args[1]);
  line_ = expr.line;
  return item(object, key);
}

Value Renderer::slice(const Value& object, const Expr& expr) {
  Value bounds[3];
  for (int i = 0; i < 3; ++i) bounds[i] = expr.args[i] ? evaluate(*expr.args[i]) : Value::none();
  line_ = expr.line;
  charge(object.weight());
  if (object.is_string()) {
    const std::vector<size_t> offsets = character_offsets(object.bytes());
    Text out;
    for (size_t i : slice_indices(bounds[0], bounds[1], bounds[2], offsets.size() - 1))
      out.append(object.text(), offsets[i], offsets[i + 1]);
    out.markup = object.text().markup;
    return string(std::move(out));
  }
  if (object.is(Kind::list) && object.as_list().kind != ListKind::generator &&
      object.as_list().kind != ListKind::view) {
    const List& list = object.as_list();
    std::vector<Value> out;
    for (size_t i : slice_indices(bounds[0], bounds[1], bounds[2], list.items.size()))
      out.push_back(list.items[i]);
    return Value::list(std::move(out), list.kind, list.origin);
  }
  if (object.is_undefined()) value_error(object.missing() + " is undefined");
  value_error(type_name(object) + " cannot be sliced; expected a string or a list");
}

std::vector<size_t> slice_indices(const Value& begin, const Value& end, const Value& step, size_t length) {
  const auto bound = [](const Value& value, int64_t fallback) {
    if (value.is(Kind::none)) return fallback;
    if (!value.is(Kind::integer) && !value.is(Kind::boolean))
      value_error("a slice needs integers, not " + type_name(value));
    return value.as_integer();
  };
  const int64_t count = static_cast<int64_t>(length);
  const int64_t by = bound(step, 1);
  if (by == 0) value_error("a slice's step is 0");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? count : count - 1;
  const auto clamp = [&](int64_t at) { return std::clamp(at < 0 ? at + count : at, low, high); };
  const int64_t from = step.is(Kind::none) && begin.is(Kind::none) ? 0
                       : begin.is(Kind::none)                      ? (by > 0 ? low : high)
                                                                   : clamp(bound(begin, 0));
  const int64_t to = end.is(Kind::none) ? (by > 0 ? high : low) : clamp(bound(end, 0));
  std::vector<size_t> out;
  if (by > 0) {
    for (int64_t at = from; at < to; at += std::min(by, count + 1)) out.push_back(at);
  } else {
    for (int64_t at = from; at > to; at += std::max(by, -count - 1)) out.push_back(at);
  }
  return out;
}

namespace {

// `out` by reference: the operation that sets it is the other argument.
Value integer_result(bool overflow, const int64_t& value) {
  if (overflow) value_error("an integer grows beyond 64 bits");
  return Value::integer(value);
}

Value power(const Value& a, const Value& b) {
  if (a.is(Kind::real) || b.is(Kind::real) || b.as_integer() < 0)
    return Value::real(std::pow(a.as_real(), b.as_real()));
  int64_t out = 1;
  for (int64_t i = 0; i < b.as_integer() && out != 0; ++i) {
    if (i > 64 && (a.as_integer() == 1 || a.as_integer() == -1))
      return Value::integer(b.as_integer() % 2 ? a.as_integer() : 1);
    if (__builtin_mul_overflow(out, a.as_integer(), &out)) value_error("an integer grows beyond 64 bits");
  }
  return Value::integer(out);
}

Value number_binary(char op, bool whole_division, const Value& a, const Value& b) {
  const bool real = a.is(Kind::real) || b.is(Kind::real);
  const int64_t x = a.as_integer(), y = b.as_integer();
  int64_t out = 0;
  if ((op == '/' || op == '%') && (real ? b.as_real() == 0 : y == 0)) value_error("division by zero");
  if (op == '/' && !whole_division) return Value::real(a.as_real() / b.as_real());
  if (real) {
    const double u = a.as_real(), v = b.as_real();
    switch (op) {
      case '+':
        return Value::real(u + v);
      case '-':
        return Value::real(u - v);
      case '*':
        return Value::real(u * v);
      case '/':
        return Value::real(std::floor(u / v));
      default: {
        const double rest = std::fmod(u, v);
        if (rest == 0) return Value::real(std::copysign(0.0, v));
        return Value::real((rest < 0) != (v < 0) ? rest + v : rest);
      }
    }
  }
  switch (op) {
    case '+':
      return integer_result(__builtin_add_overflow(x, y, &out), out);
    case '-':
      return integer_result(__builtin_sub_overflow(x, y, &out), out);
    case '*':
      return integer_result(__builtin_mul_overflow(x, y, &out), out);
    default:
      break;
  }
  if (y == -1)
    return op == '%' ? Value::integer(0) : integer_result(__builtin_sub_overflow(int64_t{0}, x, &out), out);
  const int64_t rest = x % y;
  const bool down = rest != 0 && (rest < 0) != (y < 0);
  return Value::integer(op == '%' ? (down ? rest + y : rest) : x / y - (down ? 1 : 0));
}

// Markup escapes what it is joined with, as markupsafe does.
void append_escaped(const Text& text, Text& out) {
  const std::string& bytes = text.bytes();
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    const char* entity = c == '&'    ? "&amp;"
                         : c == '<'  ? "&lt;"
                         : c == '>'  ? "&gt;"
                         : c == '\'' ? "&#39;"
                         : c == '"'  ? "&#34;"
                                     : nullptr;
    if (entity) {
      out.append(entity, text.origin_at(i));
    } else {
      out.append(text, i, i + 1);
    }
  }
}

Value add_strings(Renderer& renderer, const Text& a, const Text& b) {
  Text out;
  if (a.markup == b.markup) {
    out.append(a);
    out.append(b);
  } else if (a.markup) {
    out.append(a);
    append_escaped(b, out);
  } else {
    append_escaped(a, out);
    out.append(b);
  }
  out.markup = a.markup || b.markup;
  return renderer.string(std::move(out));
}

Value repeat(Renderer& renderer, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_string()) {
    if (value.text().size() > 0 && count > static_cast<int64_t>(kMaxTextBytes / value.text().size()))
      value_error("a text grows beyond 64 MiB");
    Text out;
    if (!value.text().empty())
      for (int64_t i = 0; i < count; ++i) out.append(value.text());
    return renderer.string(std::move(out));
  }
  const List& list = value.as_list();
  if (list.items.empty()) return value;
  if (count > kMaxValueWeight / list.weight) value_error("a value has too many elements");
  renderer.charge(count * list.weight);
  std::vector<Value> out;
  for (int64_t i = 0; i < count; ++i) out.insert(out.end(), list.items.begin(), list.items.end());
  return Value::list(std::move(out), list.kind, list.origin);
}

bool repeatable(const Value& value) {
  return value.is_string() || (value.is(Kind::list) && (value.as_list().kind == ListKind::list ||
                                                        value.as_list().kind == ListKind::tuple));
}

}  // namespace

Value binary(Renderer& renderer, const std::string& op, const Value& a, const Value& b) {
  if (op == "%" && a.is_string()) return format_percent(renderer, a.text(), b);
  if (a.is_undefined()) value_error(a.missing() + " is undefined");
  if (b.is_undefined()) value_error(b.missing() + " is undefined");
  if (a.is_number() && b.is_number()) {
    if (op == "**") return power(a, b);
    return number_binary(op[0], op == "//", a, b);
  }
  if (op == "+" && a.is_string() && b.is_string()) return add_strings(renderer, a.text(), b.text());
  if (op == "+" && repeatable(a) && repeatable(b) && a.kind() == b.kind() &&
      a.as_list().kind == b.as_list().kind) {
    std::vector<Value> items = a.as_list().items;
    renderer.charge(a.weight() + b.weight());
    items.insert(items.end(), b.as_list().items.begin(), b.as_list().items.end());
    return Value::list(std::move(items), a.as_list().kind, a.origin().from_user() ? a.origin() : b.origin());
  }
  if (op == "*" && repeatable(a) && (b.is(Kind::integer) || b.is(Kind::boolean)))
    return repeat(renderer, a, b.as_integer());
  if (op == "*" && repeatable(b) && (a.is(Kind::integer) || a.is(Kind::boolean)))
    return repeat(renderer, b, a.as_integer());
  value_error("'" + op + "' cannot join " + type_name(a) + " and " + type_name(b) +
              (op == "+" ? "; use ~ or |string where text is meant" : ""));
}

}  // namespace attune::text::jinja
