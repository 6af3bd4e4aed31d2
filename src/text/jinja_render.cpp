#include "text/jinja_render.h"

#include <algorithm>

#include "text/jinja_lexer.h"
#include "text/jinja_unicode.h"
#include "util/error.h"

namespace attune::text::jinja {

Template::Template(std::string_view source, std::string name)
    : name_(std::move(name)), parsed_(parse(source, name_)) {}

Rendered Template::render(const Variables& variables, const Limits& limits) const {
  Renderer renderer(variables, limits);
  try {
    return renderer.run(parsed_.body);
  } catch (const Error& error) {
    template_error(name_, renderer.line(), error.what());
  }
}

const Value* Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope; scope = scope->parent)
    for (const auto& [known, value] : scope->variables)
      if (known == name) return &value;
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  for (auto& [known, old] : variables) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  variables.emplace_back(std::string(name), std::move(value));
}

class Renderer::Nested {
 public:
  explicit Nested(Renderer& r) : r_(r) {
    if (++r_.depth_ > r_.limits_.depth) {
      --r_.depth_;
      value_error("the template nests calls or expressions too deeply");
    }
  }
  ~Nested() { --r_.depth_; }

 private:
  Renderer& r_;
};

// A scope for as long as the object lives; longer when a macro captured it.
class Renderer::Scoped {
 public:
  Scoped(Renderer& r, Scope* parent) : r_(r), outer_(r.scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    r_.scope_ = scope_.get();
  }
  ~Scoped() {
    r_.scope_ = outer_;
    if (scope_->captured) r_.kept_.push_back(std::move(scope_));
  }

 private:
  Renderer& r_;
  Scope* outer_;
  std::unique_ptr<Scope> scope_;
};

class Renderer::Captured {
 public:
  explicit Captured(Renderer& r) : r_(r), outer_(r.out_), was_root_(r.at_root_) {
    r_.out_ = &text;
    r_.at_root_ = false;
  }
  ~Captured() {
    r_.out_ = outer_;
    r_.at_root_ = was_root_;
  }
  Text text;

 private:
  Renderer& r_;
  Text* outer_;
  bool was_root_;
};

Renderer::Renderer(const Variables& variables, const Limits& limits) : limits_(limits), scope_(&globals_) {
  for (const auto& [name, value] : variables) globals_.set(name, value);
  out_ = &rendered_.text;
}

// Namespaces and macros may refer to each other in circles; the circles are opened here.
Renderer::~Renderer() {
  for (const auto& space : spaces_) space->items.clear();
  for (const auto& scope : kept_) scope->variables.clear();
}

Rendered Renderer::run(const Body& body) {
  execute(body);
  return std::move(rendered_);
}

void Renderer::charge(int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) value_error("the template does not come to an end (step limit reached)");
}

Value Renderer::string(Text text) {
  bytes_ += text.size();
  if (bytes_ > limits_.bytes) value_error("the template makes too much text (limit reached)");
  return Value::string(std::move(text));
}

Value Renderer::make_space(std::shared_ptr<Dict> dict) {
  for (const auto& [name, value] : dict->items)
    if (name.bytes().starts_with("_")) value_error("a namespace attribute may not begin with '_'");
  spaces_.push_back(dict);
  return Value::space(std::move(dict));
}

void Renderer::write(const Text& text) {
  if (text.empty()) return;
  bytes_ += text.size();
  if (bytes_ > limits_.bytes) value_error("the template makes too much text (limit reached)");
  const size_t begin = out_->size();
  out_->append(text);
  if (!at_root_) return;
  rendered_.pieces.push_back({begin, out_->size(), message_});
  size_t at = 0;
  for (const Run& run : text.runs()) {
    if (run.origin.generated) {
      std::vector<Piece>& done = rendered_.generated;
      if (!done.empty() && done.back().end == begin + at && done.back().message == message_) {
        done.back().end = begin + run.end;
      } else {
        done.push_back({begin + at, begin + run.end, message_});
      }
    }
    at = run.end;
  }
}

Text Renderer::capture(const Body& body) {
  Captured captured(*this);
  execute(body);
  return std::move(captured.text);
}

Renderer::Flow Renderer::execute(const Body& body) {
  Nested nested(*this);
  for (const auto& stmt : body)
    if (const Flow flow = execute(*stmt); flow != Flow::normal) return flow;
  return Flow::normal;
}

Renderer::Flow Renderer::execute(const Stmt& stmt) {
  charge(1);
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::data:
      write(stmt.data.text());
      break;
    case StmtKind::print:
      write(to_text(evaluate(*stmt.expr)));
      break;
    case StmtKind::condition:
      return condition(stmt);
    case StmtKind::loop:
      loop(stmt);
      break;
    case StmtKind::set:
      assign(*stmt.target, evaluate(*stmt.expr));
      break;
    case StmtKind::macro:
      scope_->set(stmt.name, make_function(stmt, stmt.name));
      break;
    case StmtKind::with:
      with(stmt);
      break;
    case StmtKind::stop:
      return Flow::stop;
    case StmtKind::next:
      return Flow::next;
    case StmtKind::set_block:
    case StmtKind::filter_block: {
      Text text;
      {
        Scoped scoped(*this, scope_);
        text = capture(stmt.body);
        if (stmt.expr) {
          scope_->set(" body", string(std::move(text)));  // a name that no template can write
          text = to_text(evaluate(*stmt.expr));
        }
      }
      if (stmt.kind == StmtKind::filter_block) {
        write(text);
      } else {
        assign(*stmt.target, string(std::move(text)));
      }
      break;
    }
    case StmtKind::call_block: {
      Arguments args = arguments(*stmt.expr);
      args.named.emplace_back("caller", make_function(stmt, "caller"));
      const Value result = call(evaluate(*stmt.expr->args[0]), args);
      write(to_text(result));
      break;
    }
    case StmtKind::generation: {
      Scoped scoped(*this, scope_);
      Text text = capture(stmt.body);
      text.mark_generated();
      write(text);
      break;
    }
  }
  return Flow::normal;
}

Renderer::Flow Renderer::condition(const Stmt& stmt) {
  for (const auto& [test, body] : stmt.branches)
    if (truthy(evaluate(*test))) return execute(body);
  return execute(stmt.otherwise);
}

void Renderer::with(const Stmt& stmt) {
  std::vector<Value> bound;
  for (const auto& [target, value] : stmt.bindings) bound.push_back(evaluate(*value));
  Scoped scoped(*this, scope_);
  for (size_t i = 0; i < bound.size(); ++i) assign(*stmt.bindings[i].first, std::move(bound[i]));
  execute(stmt.body);
}

void Renderer::loop(const Stmt& stmt) {
  run_loop(stmt, scope_, evaluate(*stmt.expr), 1);
}

std::vector<Value> Renderer::loop_items(const Stmt& stmt, const Value& iterable) {
  std::vector<Value> items = iterate(iterable);
  charge(static_cast<int64_t>(items.size()));
  if (!stmt.test) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    Scoped scoped(*this, scope_);
    assign(*stmt.target, item);
    if (truthy(evaluate(*stmt.test))) kept.push_back(std::move(item));
  }
  return kept;
}

void Renderer::run_loop(const Stmt& stmt, Scope* scope, const Value& iterable, int depth) {
  Nested nested(*this);
  auto state = std::make_shared<Loop>();
  state->items = loop_items(stmt, iterable);
  state->depth = depth;
  if (stmt.recursive) {
    for (Scope* outer = scope; outer; outer = outer->parent) outer->captured = true;
    state->recurse = [this, &stmt, scope, depth](Renderer&, Arguments& args) {
      if (args.positional.size() != 1) value_error("loop(…) takes the list to go on with");
      Captured captured(*this);
      run_loop(stmt, scope, args.positional[0], depth + 1);
      return string(std::move(captured.text));
    };
  }
  const int outer_message = message_;
  Flow flow = Flow::normal;
  for (state->index = 0; state->index < state->items.size() && flow != Flow::stop; ++state->index) {
    const Value& item = state->items[state->index];
    if (item.is(Kind::dict) && item.as_dict().message >= 0) message_ = item.as_dict().message;
    Scoped scoped(*this, scope);
    assign(*stmt.target, item);
    scope_->set("loop", Value::loop(state));
    flow = execute(stmt.body);
    message_ = outer_message;
  }
  if (state->items.empty()) {
    Scoped scoped(*this, scope);
    execute(stmt.otherwise);
  }
}

void Renderer::assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::name) {
    scope_->set(target.name, std::move(value));
  } else if (target.kind == ExprKind::attribute) {
    const Value space = evaluate(*target.args[0]);
    if (!space.is(Kind::space))
      value_error("cannot set attribute '" + target.name + "' on " + type_name(space) +
                  "; only namespace() objects take it");
    if (target.name.starts_with("_")) value_error("a namespace attribute may not begin with '_'");
    space.mutable_dict().set(Value::literal(target.name), std::move(value));
  } else {
    const std::vector<Value> parts = iterate(value);
    if (parts.size() != target.args.size())
      value_error("cannot unpack " + std::to_string(parts.size()) + " values into " +
                  std::to_string(target.args.size()) + " names");
    for (size_t i = 0; i < parts.size(); ++i) assign(*target.args[i], parts[i]);
  }
}

Value Renderer::make_function(const Stmt& stmt, const std::string& name) {
  for (Scope* scope = scope_; scope; scope = scope->parent) scope->captured = true;
  return Value::callable(
      name, [&stmt, scope = scope_](Renderer& r, Arguments& args) { return r.invoke(stmt, scope, args); });
}

Value Renderer::invoke(const Stmt& stmt, Scope* scope, Arguments& args) {
  Nested nested(*this);
  Scoped scoped(*this, scope);
  const std::string what = stmt.kind == StmtKind::macro ? "macro " + stmt.name : "caller";
  std::vector<bool> given(stmt.parameters.size(), false);
  std::vector<Value> rest;
  for (size_t i = 0; i < args.positional.size(); ++i) {
    if (i < given.size()) {
      scope_->set(stmt.parameters[i].first, args.positional[i]);
      given[i] = true;
    } else {
      rest.push_back(args.positional[i]);
    }
  }
  if (!rest.empty() && !stmt.uses_varargs)
    value_error(what + " takes not more than " + std::to_string(given.size()) + " argument(s)");
  auto others = std::make_shared<Dict>();
  Value caller = Value::undefined("'caller'");
  for (auto& [name, value] : args.named) {
    size_t i = 0;
    while (i < given.size() && stmt.parameters[i].first != name) ++i;
    if (i < given.size()) {
      if (given[i]) value_error(what + " got argument '" + name + "' twice");
      scope_->set(name, value);
      given[i] = true;
    } else if (name == "caller" && stmt.uses_caller) {
      caller = value;
    } else if (stmt.uses_kwargs) {
      others->set(Value::literal(name), value);
    } else {
      value_error(what + " takes no keyword argument '" + name + "'");
    }
  }
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i]) continue;
    const auto& [name, value] = stmt.parameters[i];
    scope_->set(name, value ? evaluate(*value) : Value::undefined("parameter '" + name + "'"));
  }
  if (stmt.uses_caller) scope_->set("caller", caller);
  if (stmt.uses_varargs) scope_->set("varargs", Value::list(std::move(rest), ListKind::tuple));
  if (stmt.uses_kwargs) scope_->set("kwargs", Value::dict(others));
  return string(capture(stmt.body));
}

}  // namespace attune::text::jinja
