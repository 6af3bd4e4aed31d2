// Runs a template. Semantics are jinja2's in Hugging Face's environment: sandboxed, immutable, loop controls,
// {% generation %}.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_parser.h"
#include "text/jinja_value.h"

namespace attune::text::jinja {

struct Limits {
  int64_t steps = 20'000'000;
  size_t bytes = size_t{512} << 20;  // of all texts made on the way
  int depth = 400;                   // of nested evaluation
  int64_t range = 100'000;           // as jinja2's sandbox
};

// One write to the output. `message` is the message that the innermost `for` over messages is at, or -1.
struct Piece {
  size_t begin = 0, end = 0;
  int message = -1;
};

struct Rendered {
  Text text;
  std::vector<Piece> pieces;
  std::vector<Piece> generated;  // what {% generation %} blocks wrote
};

using Variables = std::vector<std::pair<std::string, Value>>;

class Template {
 public:
  // Throws for a template that we cannot run, naming the construct and the line.
  Template(std::string_view source, std::string name);
  const std::string& name() const { return name_; }
  bool has_generation() const { return parsed_.has_generation; }
  Rendered render(const Variables& variables, const Limits& limits = {}) const;

 private:
  std::string name_;
  Parsed parsed_;
};

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;
  bool captured = false;  // a macro refers to it
  const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);
};

class Renderer {
 public:
  Renderer(const Variables& variables, const Limits& limits);
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  Rendered run(const Body& body);
  int line() const { return line_; }

  // For filters, tests, methods and functions.
  Value string(Text text);
  void charge(int64_t steps);
  Value call(const Value& function, Arguments& arguments);
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  Value filter(const std::string& name, const Value& value, Arguments& arguments);
  bool test(const std::string& name, const Value& value, Arguments& arguments);
  Value make_space(std::shared_ptr<Dict> dict);
  const Limits& limits() const { return limits_; }

 private:
  enum class Flow { normal, stop, next };
  struct Buffer {
    Text text;
  };
  class Nested;
  class Scoped;
  class Captured;

  Flow execute(const Body& body);
  Flow execute(const Stmt& stmt);
  Flow condition(const Stmt& stmt);
  void loop(const Stmt& stmt);
  void run_loop(const Stmt& stmt, Scope* scope, const Value& iterable, int depth);
  std::vector<Value> loop_items(const Stmt& stmt, const Value& iterable);
  void with(const Stmt& stmt);
  void write(const Text& text);
  Text capture(const Body& body);
  Value make_function(const Stmt& stmt, const std::string& name);
  Value invoke(const Stmt& stmt, Scope* scope, Arguments& arguments);
  void assign(const Expr& target, Value value);

  Value evaluate(const Expr& expr);
  Value evaluate_kind(const Expr& expr);
  Value variable(const Expr& expr);
  Value compare(const Expr& expr);
  Value concat(const Expr& expr);
  Value subscript(const Expr& expr);
  Value slice(const Value& object, const Expr& expr);
  Value make_dict(const Expr& expr);
  Arguments arguments(const Expr& expr);
  std::vector<Value> values(const Expr& expr, size_t begin);

  const Limits limits_;
  int64_t steps_ = 0;
  size_t bytes_ = 0;
  int depth_ = 0;
  int line_ = 1;
  int message_ = -1;
  Scope globals_;
  Scope* scope_ = nullptr;
  Text* out_ = nullptr;
  bool at_root_ = true;
  Rendered rendered_;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::vector<std::shared_ptr<Dict>> spaces_;
};

// The operators.
Value binary(Renderer& renderer, const std::string& op, const Value& a, const Value& b);
Value format_percent(Renderer& renderer, const Text& format, const Value& arguments);
// Methods of strings, lists and mappings; undefined when there is none of that name.
Value method(const Value& object, const std::string& name);
const std::map<std::string, Value, std::less<>>& builtin_functions();
Value loop_attribute(const Value& loop, const std::string& name);
// Python's slice bounds applied to a length: the indices it selects.
std::vector<size_t> slice_indices(const Value& begin, const Value& end, const Value& step, size_t length);

// Argument `index` or the one named `name`, or null.
const Value* argument(const Arguments& arguments, size_t index, std::string_view name);
Text stripped(const Text& text, const Value* characters, bool left, bool right);
Text replaced(const Text& text, const Text& from, const Text& to, int64_t count);
Value split_lines(const Text& text, bool keep_ends);
Text mapped(const Text& text, std::string (*map)(char32_t));

}  // namespace attune::text::jinja
