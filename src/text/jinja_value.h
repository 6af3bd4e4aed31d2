// Values of the template language: Python's, with strings that know where each of their bytes came from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/json.h"

namespace attune::text::jinja {

enum class Source : uint8_t { literal, role, message, tools, context };

// Where bytes came from. Everything that a template says itself is `literal`.
struct Origin {
  Source source = Source::literal;
  bool generated = false;  // inside {% generation %}
  int32_t message = -1;    // for `role` and `message`: index of the message
  bool operator==(const Origin&) const = default;
  // Text that a user may have written: it must never act as a control token.
  bool from_user() const { return source == Source::message || source == Source::tools; }
};

struct Run {
  size_t end;
  Origin origin;
};

// UTF-8 bytes with their origins. Positions are bytes; Python's characters are counted by the functions
// below.
class Text {
 public:
  Text() = default;
  Text(std::string_view bytes, Origin origin) { append(bytes, origin); }

  const std::string& bytes() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  Origin origin_at(size_t position) const;
  // The origin that stands for the whole text: the first that came from a user, else the first.
  Origin origin() const;

  void append(std::string_view bytes, Origin origin);
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, size_t begin, size_t end);
  Text substr(size_t begin, size_t end) const;
  void mark_generated();

  bool markup = false;  // came out of |safe or |escape

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

class Value;
class Renderer;
struct Arguments;

enum class ListKind : uint8_t { list, tuple, range, view, generator };

struct List {
  ListKind kind = ListKind::list;
  std::vector<Value> items;
  Origin origin;
  int depth = 1;
  int64_t weight = 1;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  Origin origin;
  int message = -1;  // index when this is one of the conversation's messages
  int depth = 1;
  int64_t weight = 1;
  const Value* find(std::string_view key) const;
  const Value* find(const Value& key) const;
  void set(Value key, Value value);
};

struct Callable {
  std::string name;
  std::function<Value(Renderer&, Arguments&)> function;
  // Attributes such as macro.name or loop.cycle's owner are not modelled.
};

struct Loop;

enum class Kind : uint8_t {
  undefined,
  none,
  boolean,
  integer,
  real,
  string,
  list,
  dict,
  space,
  callable,
  loop
};

class Value {
 public:
  Value() = default;
  static Value undefined(std::string what);
  static Value none();
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value real(double value);
  static Value string(Text text);
  static Value literal(std::string_view bytes) { return string(Text(bytes, {})); }
  static Value list(std::vector<Value> items, ListKind kind = ListKind::list, Origin origin = {});
  static Value dict(std::shared_ptr<Dict> dict);
  static Value space(std::shared_ptr<Dict> dict);
  static Value callable(std::string name, std::function<Value(Renderer&, Arguments&)> function);
  static Value loop(std::shared_ptr<Loop> loop);
  static Value from_json(const Json& json, Origin origin);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_number() const { return is(Kind::integer) || is(Kind::real) || is(Kind::boolean); }

  bool as_bool() const { return integer_ != 0; }
  int64_t as_integer() const { return integer_; }
  double as_real() const { return kind_ == Kind::real ? real_ : static_cast<double>(integer_); }
  const Text& text() const { return *static_cast<const Text*>(object_.get()); }
  const std::string& bytes() const { return text().bytes(); }
  const List& as_list() const { return *static_cast<const List*>(object_.get()); }
  const Dict& as_dict() const { return *static_cast<const Dict*>(object_.get()); }
  Dict& mutable_dict() const { return *static_cast<Dict*>(const_cast<void*>(object_.get())); }
  const Callable& as_callable() const { return *static_cast<const Callable*>(object_.get()); }
  Loop& as_loop() const { return *static_cast<Loop*>(const_cast<void*>(object_.get())); }
  const void* identity() const { return object_.get(); }
  // What was missing, for the message of an error.
  const std::string& missing() const;
  // Numbers and containers carry the origin of the document they were read from.
  Origin origin() const { return origin_; }
  int depth() const;
  // About how much work it is to walk through the value; lists that share parts count them each time.
  int64_t weight() const;

 private:
  Kind kind_ = Kind::undefined;
  Origin origin_;
  union {
    int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<const void> object_;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The state behind the variable `loop`.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  int depth = 1;
  Value last_changed;
  bool has_changed = false;
  std::function<Value(Renderer&, Arguments&)> recurse;
};

// Limits against templates that are built to exhaust the machine.
constexpr int kMaxValueDepth = 100;
constexpr int64_t kMaxValueWeight = 20'000'000;
constexpr size_t kMaxTextBytes = 64 << 20;

// Everything below throws attune::Error; the renderer adds template name and line.
[[noreturn]] void value_error(const std::string& what);

std::string type_name(const Value& value);
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
// Python's `<`; refuses kinds that have no order.
bool less(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
Text to_text(const Value& value);                 // str()
void append_repr(const Value& value, Text& out);  // repr()
std::string format_real(double value);            // as Python's repr(float)

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
Text to_json(const Value& value, const JsonStyle& style);

// The elements that a `for` would see. Refuses what cannot be iterated.
std::vector<Value> iterate(const Value& value);
bool iterable(const Value& value);
int64_t length(const Value& value);

}  // namespace attune::text::jinja
