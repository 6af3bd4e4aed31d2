#include "text/jinja_parser.h"

#include <utility>

#include "text/jinja_expression_parser.h"

namespace attune::text::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Parsed run() {
    parsed_.body = body({});
    return std::move(parsed_);
  }

 private:
  // Statements up to one of the closing tags, whose "{%" is taken and whose name is current.
  Body body(Names closing) {
    Nesting nesting(*this);
    Body out;
    while (true) {
      const Token& token = current();
      if (token.kind == TokenKind::end) {
        if (closing.size()) fail_here("{% " + std::string(*(closing.end() - 1)) + " %} is missing");
        return out;
      }
      if (token.kind == TokenKind::data) {
        out.push_back(statement(StmtKind::data));
        out.back()->data = Value::literal(take().text);
      } else if (token.kind == TokenKind::print_begin) {
        take();
        out.push_back(statement(StmtKind::print));
        out.back()->expr = tuple(true);
        if (current().kind != TokenKind::print_end) fail_here("expected '}}', found " + describe(current()));
        take();
      } else {
        take();  // {%
        if (current().kind != TokenKind::name)
          fail_here("expected a tag's name behind '{%', found " + describe(current()));
        for (std::string_view name : closing)
          if (is_name(name)) return out;
        out.push_back(tag());
      }
    }
  }

  Body closed_body(std::string_view closing) {
    Body out = body({closing});
    take();
    expect_end();
    return out;
  }

  std::unique_ptr<Stmt> statement(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = current().line;
    return stmt;
  }

  std::unique_ptr<Stmt> tag() {
    const std::string name = current().text;
    if (name == "if") return condition();
    if (name == "for") return loop();
    if (name == "set") return set();
    if (name == "macro") return macro();
    if (name == "call") return call_block();
    if (name == "filter") return filter_block();
    if (name == "with") return with();
    if (name == "generation") {
      auto stmt = simple(StmtKind::generation);
      expect_end();
      stmt->body = scoped_body("endgeneration");
      parsed_.has_generation = true;
      return stmt;
    }
    if (name == "break" || name == "continue") {
      auto stmt = simple(name == "break" ? StmtKind::stop : StmtKind::next);
      if (loops_ == 0) fail_here("{% " + name + " %} stands outside of a for loop");
      expect_end();
      return stmt;
    }
    if (name.starts_with("end") || name == "else" || name == "elif")
      fail_here("{% " + name + " %} closes nothing that is open here");
    fail_here("the tag {% " + name + " %} is not supported in chat templates");
  }

  std::unique_ptr<Stmt> simple(StmtKind kind) {
    auto stmt = statement(kind);
    take();
    return stmt;
  }

  // A body that is compiled to a function: break and continue do not reach out of it.
  Body scoped_body(std::string_view closing) {
    const int outer = std::exchange(loops_, 0);
    Body out = closed_body(closing);
    loops_ = outer;
    return out;
  }

  std::unique_ptr<Stmt> condition() {
    auto stmt = simple(StmtKind::condition);
    while (true) {
      ExprPtr test = tuple(false);
      expect_end();
      Body then = body({"elif", "else", "endif"});
      stmt->branches.emplace_back(std::move(test), std::move(then));
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        expect_end();
        stmt->otherwise = body({"endif"});
      }
      take();
      expect_end();
      return stmt;
    }
  }

  std::unique_ptr<Stmt> loop() {
    auto stmt = simple(StmtKind::loop);
    stmt->target = assign_target(false);
    expect_name("in");
    stmt->expr = tuple(false, "recursive");
    if (skip_name("if")) stmt->test = expression();
    stmt->recursive = skip_name("recursive");
    expect_end();
    ++loops_;
    stmt->body = body({"else", "endfor"});
    --loops_;
    if (skip_name("else")) {
      expect_end();
      stmt->otherwise = body({"endfor"});
    }
    take();
    expect_end();
    return stmt;
  }

  std::unique_ptr<Stmt> set() {
    auto stmt = simple(StmtKind::set);
    stmt->target = assign_target(true);
    if (skip_op("=")) {
      stmt->expr = tuple(true);
      expect_end();
      return stmt;
    }
    stmt->kind = StmtKind::set_block;
    if (is_op("|")) stmt->expr = filters(nullptr, true);
    expect_end();
    stmt->body = scoped_body("endset");
    return stmt;
  }

  void parameters(Stmt& stmt) {
    expect_op("(");
    while (!is_op(")")) {
      if (!stmt.parameters.empty()) {
        expect_op(",");
        if (is_op(")")) break;
      }
      std::string name = expect_identifier();
      ExprPtr value;
      if (skip_op("=")) {
        value = expression();
      } else if (!stmt.parameters.empty() && stmt.parameters.back().second) {
        fail_here("a parameter without default follows one with a default");
      }
      stmt.parameters.emplace_back(std::move(name), std::move(value));
    }
    take();
  }

  void function_body(Stmt& stmt, std::string_view closing) {
    const size_t begin = at_;
    stmt.body = scoped_body(closing);
    for (size_t i = begin; i < at_; ++i) {
      if (tokens_[i].kind != TokenKind::name) continue;
      stmt.uses_caller |= tokens_[i].text == "caller";
      stmt.uses_varargs |= tokens_[i].text == "varargs";
      stmt.uses_kwargs |= tokens_[i].text == "kwargs";
    }
  }

  std::unique_ptr<Stmt> macro() {
    auto stmt = simple(StmtKind::macro);
    stmt->name = expect_identifier();
    parameters(*stmt);
    expect_end();
    function_body(*stmt, "endmacro");
    return stmt;
  }

  std::unique_ptr<Stmt> call_block() {
    auto stmt = simple(StmtKind::call_block);
    if (is_op("(")) parameters(*stmt);
    stmt->expr = expression();
    if (stmt->expr->kind != ExprKind::call) fail_here("{% call %} needs a call of a macro");
    expect_end();
    function_body(*stmt, "endcall");
    return stmt;
  }

  std::unique_ptr<Stmt> filter_block() {
    auto stmt = simple(StmtKind::filter_block);
    stmt->expr = filters(nullptr, true, true);
    expect_end();
    stmt->body = scoped_body("endfilter");
    return stmt;
  }

  std::unique_ptr<Stmt> with() {
    auto stmt = simple(StmtKind::with);
    while (current().kind != TokenKind::block_end) {
      if (!stmt->bindings.empty()) expect_op(",");
      ExprPtr target = assign_target(false);
      expect_op("=");
      stmt->bindings.emplace_back(std::move(target), expression());
    }
    expect_end();
    stmt->body = closed_body("endwith");
    return stmt;
  }

  ExprPtr assign_target(bool attributes) {
    const int line = current().line;
    if (attributes && current().kind == TokenKind::name && look().kind == TokenKind::op &&
        look().text == ".") {
      ExprPtr object = make(ExprKind::name, line, take().text);
      take();
      return make(ExprKind::attribute, line, std::move(object), nullptr, expect_identifier());
    }
    std::vector<ExprPtr> targets;
    bool is_tuple = false;
    while (true) {
      if (skip_op("(")) {
        targets.push_back(assign_target(attributes));
        expect_op(")");
      } else {
        for (std::string_view reserved : {"true", "false", "none", "True", "False", "None"})
          if (is_name(reserved)) fail_here("cannot assign to '" + std::string(reserved) + "'");
        targets.push_back(make(ExprKind::name, current().line, expect_identifier()));
      }
      if (!skip_op(",")) break;
      is_tuple = true;
      if (current().kind != TokenKind::name && !is_op("(")) break;
      if (is_name("in")) break;
    }
    if (!is_tuple) return std::move(targets.front());
    ExprPtr out = make(ExprKind::tuple, line);
    out->args = std::move(targets);
    return measured(std::move(out));
  }

  int loops_ = 0;
  Parsed parsed_;
};

}  // namespace

Parsed parse(std::string_view source, const std::string& template_name) {
  return Parser(source, template_name).run();
}

}  // namespace attune::text::jinja
