// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace attune::text::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  constant,
  name,
  tuple,
  list,
  dict,
  conditional,
  logical_or,
  logical_and,
  logical_not,
  compare,
  negate,
  plus,
  binary,
  concat,
  attribute,
  item,
  slice,
  call,
  filter,
  test
};

// What the fields mean depends on the kind:
//   name, attribute, filter, test   `name`
//   binary                          `name` is the operator; two args
//   dict                            args are key, value, key, value …
//   conditional                     args: condition, then, else (may be null)
//   compare                         args: first, then one per operator in `operators`
//   slice                           args: begin, end, step (each may be null)
//   attribute, item, call, filter, test   args[0] is what they apply to (null for {% filter %} blocks)
struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;  // *args and **kwargs of a call
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  data,
  print,
  condition,
  loop,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  generation,
  stop,
  next
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  Value data;              // data
  std::string name;        // macro
  ExprPtr target;          // for, set; `name.attribute` is an attribute expression
  ExprPtr expr;            // print, for (iterable), set, call block (the call), filter block
  ExprPtr test;            // for … if
  bool recursive = false;  // for
  std::vector<std::pair<ExprPtr, Body>> branches;           // condition: (test, body); with: (unused)
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;        // with: target, value
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // macro, call block: name, default (may be null)
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  Body body, otherwise;
};

struct Parsed {
  Body body;
  bool has_generation = false;
};

Parsed parse(std::string_view source, const std::string& template_name);

}  // namespace attune::text::jinja
