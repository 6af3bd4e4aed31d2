// The expressions of the template language: tokens → Expr. The statements build on it (jinja_parser.cpp).
#pragma once

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "text/jinja_lexer.h"
#include "text/jinja_parser.h"

namespace attune::text::jinja {

constexpr int kMaxNesting = 100;
// Of the syntax tree: long chains such as a+b+c… nest to the left without nesting in the source.
constexpr int kMaxDepth = 200;

class ExpressionParser {
 public:
  ExpressionParser(std::string_view source, const std::string& name)
      : name_(name), tokens_(tokenize(source, name)) {}

 protected:
  using Names = std::initializer_list<std::string_view>;

  struct Nesting {
    explicit Nesting(ExpressionParser& parser) : parser(parser) {
      if (++parser.depth_ > kMaxNesting) parser.fail_here("expressions or blocks are nested too deeply");
    }
    ~Nesting() { --parser.depth_; }
    ExpressionParser& parser;
  };

  [[noreturn]] void fail_here(const std::string& what) const { template_error(name_, current().line, what); }

  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is_op(std::string_view op) const { return current().kind == TokenKind::op && current().text == op; }
  bool is_name(std::string_view name) const {
    return current().kind == TokenKind::name && current().text == name;
  }
  bool skip_op(std::string_view op) { return is_op(op) && (take(), true); }
  bool skip_name(std::string_view name) { return is_name(name) && (take(), true); }

  static std::string describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::end:
        return "the end of the template";
      case TokenKind::block_end:
        return "'%}'";
      case TokenKind::print_end:
        return "'}}'";
      case TokenKind::data:
        return "text";
      default:
        return "'" + token.text + "'";
    }
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail_here("expected '" + std::string(op) + "', found " + describe(current()));
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail_here("expected '" + std::string(name) + "', found " + describe(current()));
  }
  std::string expect_identifier() {
    if (current().kind != TokenKind::name) fail_here("expected a name, found " + describe(current()));
    return take().text;
  }
  void expect_end() {
    if (current().kind != TokenKind::block_end) fail_here("expected '%}', found " + describe(current()));
    take();
  }

  ExprPtr make(ExprKind kind, int line, std::string name = "") const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    expr->name = std::move(name);
    return expr;
  }
  ExprPtr make(ExprKind kind, int line, ExprPtr first, ExprPtr second = nullptr,
               std::string name = "") const {
    ExprPtr expr = make(kind, line, std::move(name));
    expr->args.push_back(std::move(first));
    if (second) expr->args.push_back(std::move(second));
    return measured(std::move(expr));
  }
  ExprPtr measured(ExprPtr expr) const {
    const auto count = [&](const ExprPtr& part) {
      if (part) expr->depth = std::max(expr->depth, part->depth + 1);
    };
    for (const ExprPtr& part : expr->args) count(part);
    for (const auto& [name, part] : expr->named) count(part);
    count(expr->star);
    count(expr->star_star);
    if (expr->depth > kMaxDepth) fail_here("an expression is nested too deeply");
    return expr;
  }
  ExprPtr constant(Value value, int line) const {
    ExprPtr expr = make(ExprKind::constant, line);
    expr->value = std::move(value);
    return expr;
  }

  bool tuple_ends(std::string_view extra) const {
    return current().kind == TokenKind::block_end || current().kind == TokenKind::print_end || is_op(")") ||
           (!extra.empty() && is_name(extra));
  }

  ExprPtr tuple(bool conditional, std::string_view extra = "", bool parentheses = false) {
    const int line = current().line;
    std::vector<ExprPtr> args;
    bool is_tuple = false;
    while (true) {
      if (!args.empty()) expect_op(",");
      if (tuple_ends(extra)) break;
      args.push_back(conditional ? expression() : logical_or());
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!args.empty()) return std::move(args.front());
      if (!parentheses) fail_here("expected an expression, found " + describe(current()));
    }
    ExprPtr out = make(ExprKind::tuple, line);
    out->args = std::move(args);
    return measured(std::move(out));
  }

  ExprPtr expression() {
    Nesting nesting(*this);
    const int line = current().line;
    ExprPtr value = logical_or();
    while (skip_name("if")) {
      ExprPtr test = logical_or();
      ExprPtr otherwise = skip_name("else") ? expression() : nullptr;
      ExprPtr out = make(ExprKind::conditional, line, std::move(test), std::move(value));
      out->args.push_back(std::move(otherwise));
      value = measured(std::move(out));
    }
    return value;
  }

  ExprPtr logical_or() {
    ExprPtr left = logical_and();
    while (is_name("or")) {
      const int line = take().line;
      left = make(ExprKind::logical_or, line, std::move(left), logical_and());
    }
    return left;
  }

  ExprPtr logical_and() {
    ExprPtr left = logical_not();
    while (is_name("and")) {
      const int line = take().line;
      left = make(ExprKind::logical_and, line, std::move(left), logical_not());
    }
    return left;
  }

  ExprPtr logical_not() {
    if (!is_name("not")) return compare();
    Nesting nesting(*this);
    const int line = take().line;
    return make(ExprKind::logical_not, line, logical_not());
  }

  ExprPtr compare() {
    ExprPtr first = sum();
    ExprPtr out;
    while (true) {
      std::string op;
      for (std::string_view known : {"==", "!=", "<=", ">=", "<", ">"})
        if (op.empty() && is_op(known)) op = known;
      if (is_name("in")) op = "in";
      if (is_name("not") && look().kind == TokenKind::name && look().text == "in") op = "not in";
      if (op.empty()) return out ? measured(std::move(out)) : std::move(first);
      const int line = take().line;
      if (op == "not in") take();
      if (!out) out = make(ExprKind::compare, line, std::move(first));
      out->operators.push_back(op);
      out->args.push_back(sum());
    }
  }

  ExprPtr binary(Names operators, ExprPtr (ExpressionParser::*operand)()) {
    ExprPtr left = (this->*operand)();
    while (true) {
      bool found = false;
      for (std::string_view op : operators) {
        if (!is_op(op)) continue;
        const int line = take().line;
        ExprPtr right = (this->*operand)();
        left = make(ExprKind::binary, line, std::move(left), std::move(right), std::string(op));
        found = true;
        break;
      }
      if (!found) return left;
    }
  }

  ExprPtr sum() { return binary({"+", "-"}, &ExpressionParser::concat); }

  ExprPtr concat() {
    ExprPtr first = product();
    if (!is_op("~")) return first;
    ExprPtr out = make(ExprKind::concat, current().line, std::move(first));
    while (skip_op("~")) out->args.push_back(product());
    return measured(std::move(out));
  }

  ExprPtr product() { return binary({"*", "//", "/", "%"}, &ExpressionParser::power); }
  ExprPtr power() { return binary({"**"}, &ExpressionParser::unary_filtered); }
  ExprPtr unary_filtered() { return unary(true); }

  ExprPtr unary(bool with_filter) {
    Nesting nesting(*this);
    const int line = current().line;
    ExprPtr out;
    if (skip_op("-")) {
      out = make(ExprKind::negate, line, unary(false));
    } else if (skip_op("+")) {
      out = make(ExprKind::plus, line, unary(false));
    } else {
      out = primary();
    }
    out = postfix(std::move(out));
    return with_filter ? filter_expression(std::move(out)) : std::move(out);
  }

  ExprPtr name_or_constant() {
    const Token token = take();
    if (token.text == "true" || token.text == "True") return constant(Value::boolean(true), token.line);
    if (token.text == "false" || token.text == "False") return constant(Value::boolean(false), token.line);
    if (token.text == "none" || token.text == "None") return constant(Value::none(), token.line);
    return make(ExprKind::name, token.line, token.text);
  }

  ExprPtr integer() {
    const Token token = take();
    std::string_view digits = token.text;
    int base = 10;
    if (digits.size() > 1 && digits[0] == '0' && (digits[1] < '0' || digits[1] > '9')) {
      base = (digits[1] | 32) == 'x' ? 16 : (digits[1] | 32) == 'o' ? 8 : 2;
      digits.remove_prefix(2);
    }
    int64_t value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (result.ec != std::errc() || result.ptr != digits.data() + digits.size())
      fail_here("the number '" + token.text + "' is not a 64-bit integer");
    return constant(Value::integer(value), token.line);
  }

  ExprPtr primary() {
    const int line = current().line;
    switch (current().kind) {
      case TokenKind::name:
        return name_or_constant();
      case TokenKind::integer:
        return integer();
      case TokenKind::real:
        return constant(Value::real(std::strtod(take().text.c_str(), nullptr)), line);  // 1e999 is inf, as in Python
      case TokenKind::string: {
        std::string text;
        while (current().kind == TokenKind::string) text += take().text;
        return constant(Value::literal(text), line);
      }
      default:
        break;
    }
    if (skip_op("(")) {
      ExprPtr out = tuple(true, "", true);
      expect_op(")");
      return out;
    }
    if (skip_op("[")) {
      ExprPtr out = make(ExprKind::list, line);
      while (!is_op("]")) {
        if (!out->args.empty()) expect_op(",");
        if (is_op("]")) break;
        out->args.push_back(expression());
      }
      take();
      return measured(std::move(out));
    }
    if (skip_op("{")) return dict(line);
    fail_here("expected an expression, found " + describe(current()));
  }

  ExprPtr dict(int line) {
    ExprPtr out = make(ExprKind::dict, line);
    while (!is_op("}")) {
      if (!out->args.empty()) expect_op(",");
      if (is_op("}")) break;
      out->args.push_back(expression());
      expect_op(":");
      out->args.push_back(expression());
    }
    take();
    return measured(std::move(out));
  }

  ExprPtr postfix(ExprPtr value) {
    while (true) {
      if (is_op(".") || is_op("[")) {
        value = subscript(std::move(value));
      } else if (is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExprPtr filter_expression(ExprPtr value) {
    while (true) {
      if (is_op("|")) {
        value = filters(std::move(value), false);
      } else if (is_name("is")) {
        value = test(std::move(value));
      } else if (is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExprPtr subscript(ExprPtr value) {
    const Token token = take();
    if (token.text == ".") {
      if (current().kind == TokenKind::name)
        return make(ExprKind::attribute, token.line, std::move(value), nullptr, take().text);
      if (current().kind == TokenKind::integer)
        return make(ExprKind::item, token.line, std::move(value), integer());
      fail_here("expected a name behind '.', found " + describe(current()));
    }
    std::vector<ExprPtr> args;
    bool comma = false;
    while (!is_op("]")) {
      if (!args.empty()) {
        expect_op(",");
        comma = true;
      }
      args.push_back(subscripted());
    }
    take();
    if (args.empty()) fail_here("an index is missing between [ and ]");
    if (!comma) return make(ExprKind::item, token.line, std::move(value), std::move(args.front()));
    ExprPtr key = make(ExprKind::tuple, token.line);
    key->args = std::move(args);
    return make(ExprKind::item, token.line, std::move(value), measured(std::move(key)));
  }

  ExprPtr subscripted() {
    const int line = current().line;
    ExprPtr parts[3];
    if (!is_op(":")) {
      parts[0] = expression();
      if (!is_op(":")) return std::move(parts[0]);
    }
    take();
    const auto ends = [this] { return is_op("]") || is_op(",") || is_op(":"); };
    if (!ends()) parts[1] = expression();
    if (skip_op(":") && !ends()) parts[2] = expression();
    ExprPtr out = make(ExprKind::slice, line);
    for (ExprPtr& part : parts) out->args.push_back(std::move(part));
    return measured(std::move(out));
  }

  void call_arguments(Expr& out) {
    expect_op("(");
    bool first = true;
    while (!is_op(")")) {
      if (!std::exchange(first, false)) {
        expect_op(",");
        if (is_op(")")) break;
      }
      if (skip_op("**")) {
        out.star_star = expression();
      } else if (skip_op("*")) {
        out.star = expression();
      } else if (current().kind == TokenKind::name && look().kind == TokenKind::op && look().text == "=") {
        std::string name = take().text;
        take();
        out.named.emplace_back(std::move(name), expression());
      } else {
        if (!out.named.empty() || out.star || out.star_star)
          fail_here("a positional argument follows a named one");
        out.args.push_back(expression());
      }
    }
    take();
  }

  ExprPtr call(ExprPtr value) {
    ExprPtr out = make(ExprKind::call, current().line, std::move(value));
    call_arguments(*out);
    return measured(std::move(out));
  }

  std::string dotted_name() {
    std::string name = expect_identifier();
    while (skip_op(".")) name += "." + expect_identifier();
    return name;
  }

  ExprPtr filters(ExprPtr value, bool allow_empty, bool inline_name = false) {
    while (inline_name || is_op("|")) {
      const int line = current().line;
      if (!std::exchange(inline_name, false)) take();
      ExprPtr out = make(ExprKind::filter, line, dotted_name());
      out->args.push_back(std::move(value));
      if (is_op("(")) call_arguments(*out);
      value = measured(std::move(out));
      if (!allow_empty) break;
    }
    return value;
  }

  ExprPtr test(ExprPtr value) {
    const int line = take().line;
    const bool negated = skip_name("not");
    ExprPtr out = make(ExprKind::test, line, dotted_name());
    out->args.push_back(std::move(value));
    const TokenKind kind = current().kind;
    if (is_op("(")) {
      call_arguments(*out);
    } else if ((kind == TokenKind::name || kind == TokenKind::string || kind == TokenKind::integer ||
                kind == TokenKind::real || is_op("[") || is_op("{")) &&
               !is_name("else") && !is_name("or") && !is_name("and")) {
      if (is_name("is")) fail_here("tests cannot be chained with 'is'");
      ExprPtr argument = primary();
      out->args.push_back(postfix(std::move(argument)));
    }
    out = measured(std::move(out));
    return negated ? make(ExprKind::logical_not, line, std::move(out)) : std::move(out);
  }

  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace attune::text::jinja
