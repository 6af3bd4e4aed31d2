#include "formats/pickle.h"

#include <bit>
#include <map>
#include <set>
#include <unordered_map>

#include "util/error.h"

namespace attune::formats {
namespace {

constexpr size_t kMaxValues = size_t{1} << 20;

using Ref = uint32_t;

struct Value {
  enum class Kind { none, boolean, integer, number, text, global, tuple, list, dict, storage, tensor, mark } kind = Kind::none;
  int64_t integer = 0;       // boolean, integer; storage: elements; tensor: offset
  std::string text;          // text, global "module.name"; storage: key
  std::string dtype;         // storage
  std::vector<Ref> items;    // tuple, list; dict: key, value, key, value …; tensor: storage, shape, strides
};
using Kind = Value::Kind;

// Storage classes and the dtypes of their elements.
const std::map<std::string, std::string>& storage_types() {
  static const std::map<std::string, std::string> known{
      {"torch.FloatStorage", "F32"}, {"torch.HalfStorage", "F16"}, {"torch.BFloat16Storage", "BF16"}, {"torch.DoubleStorage", "F64"},
      {"torch.LongStorage", "I64"}, {"torch.IntStorage", "I32"}, {"torch.ShortStorage", "I16"}, {"torch.CharStorage", "I8"},
      {"torch.ByteStorage", "U8"}, {"torch.BoolStorage", "BOOL"}};
  return known;
}

bool allowed(const std::string& global) {
  static const std::set<std::string> names{"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"};
  return names.count(global) || storage_types().count(global);
}

class Machine {
 public:
  Machine(std::string_view bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  // Runs to STOP and returns the one value that is left.
  const Value& run();
  const Value& at(Ref ref) const { return values_[ref]; }

 private:
  [[noreturn]] void bad(const std::string& what) const { fail("{}: byte {} of the pickle: {}", source_, at_, what); }

  // Input
  uint8_t byte() {
    if (at_ >= bytes_.size()) bad("it ends early");
    return static_cast<uint8_t>(bytes_[at_++]);
  }
  uint64_t little_endian(int width) {
    uint64_t x = 0;
    for (int i = 0; i < width; ++i) x |= static_cast<uint64_t>(byte()) << (8 * i);
    return x;
  }
  std::string take(uint64_t n) {
    if (n > bytes_.size() - at_) bad("a text reaches beyond its end");
    std::string out(bytes_.substr(at_, n));
    at_ += n;
    return out;
  }
  std::string line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) bad("a name has no end");
    std::string out(bytes_.substr(at_, end - at_));
    at_ = end + 1;
    return out;
  }

  // Stack
  Ref make(Value value) {
    if (values_.size() >= kMaxValues) bad("it holds too many values for a checkpoint");
    values_.push_back(std::move(value));
    return static_cast<Ref>(values_.size() - 1);
  }
  void push(Value value) { stack_.push_back(make(std::move(value))); }
  void push(Kind kind, int64_t integer = 0) {
    Value v;
    v.kind = kind;
    v.integer = integer;
    push(std::move(v));
  }
  void push_text(std::string text) {
    Value v;
    v.kind = Kind::text;
    v.text = std::move(text);
    push(std::move(v));
  }
  Ref pop() {
    if (stack_.empty()) bad("the stack is empty");
    const Ref top = stack_.back();
    stack_.pop_back();
    if (values_[top].kind == Kind::mark) bad("a mark stands where a value should");
    return top;
  }
  Value& top(Kind kind, const char* what) {
    if (stack_.empty() || values_[stack_.back()].kind != kind) bad(fmt::format("{} expected on the stack", what));
    return values_[stack_.back()];
  }
  std::vector<Ref> pop_to_mark() {
    size_t begin = stack_.size();
    while (begin > 0 && values_[stack_[begin - 1]].kind != Kind::mark) --begin;
    if (begin == 0) bad("no mark on the stack");
    std::vector<Ref> items(stack_.begin() + static_cast<ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin - 1);
    return items;
  }
  void push_sequence(Kind kind, std::vector<Ref> items) {
    Value v;
    v.kind = kind;
    v.items = std::move(items);
    push(std::move(v));
  }
  void push_tuple_of(size_t n) {
    std::vector<Ref> items(n);
    for (size_t i = n; i-- > 0;) items[i] = pop();
    push_sequence(Kind::tuple, std::move(items));
  }
  void remember(uint64_t index) {
    if (stack_.empty()) bad("nothing to remember");
    memo_[index] = stack_.back();
  }
  void recall(uint64_t index) {
    const auto it = memo_.find(index);
    if (it == memo_.end()) bad(fmt::format("entry {} of the memo was never written", index));
    if (values_[it->second].kind == Kind::mark) bad("the memo holds a mark");
    stack_.push_back(it->second);
  }

  // What torch says with them
  void global(const std::string& name);
  void reduce();
  void persistent_load();
  void set_items(const std::vector<Ref>& items);
  bool integers(Ref ref) const;
  void integer_opcode(uint8_t op);
  void text_opcode(uint8_t op);
  bool value_opcode(uint8_t op);
  void container_opcode(uint8_t op);

  std::string_view bytes_;
  std::string source_;
  size_t at_ = 0;
  std::vector<Value> values_;
  std::vector<Ref> stack_;
  std::unordered_map<uint64_t, Ref> memo_;
};

void Machine::global(const std::string& name) {
  if (!allowed(name))
    fail("{}: the pickle names {}, which a file of weights does not need; it is refused, nothing was executed. Convert the "
         "checkpoint to safetensors where you trust it", source_, name);
  Value v;
  v.kind = Kind::global;
  v.text = name;
  push(std::move(v));
}

bool Machine::integers(Ref ref) const {
  const Value& v = values_[ref];
  if (v.kind != Kind::tuple) return false;
  for (Ref item : v.items)
    if (values_[item].kind != Kind::integer) return false;
  return true;
}

void Machine::reduce() {
  const Ref arguments = pop(), function = pop();
  if (values_[arguments].kind != Kind::tuple || values_[function].kind != Kind::global) bad("REDUCE needs a known name and a tuple");
  const std::vector<Ref> a = values_[arguments].items;
  const std::string name = values_[function].text;
  if (name == "collections.OrderedDict") {
    if (!a.empty()) bad("an OrderedDict is expected to be made empty");
    push(Kind::dict);
  } else if (name == "torch._utils._rebuild_tensor_v2") {
    if (a.size() < 4 || values_[a[0]].kind != Kind::storage || values_[a[1]].kind != Kind::integer || !integers(a[2]) || !integers(a[3]) ||
        values_[a[2]].items.size() != values_[a[3]].items.size())
      bad("_rebuild_tensor_v2 needs a storage, an offset, a shape and strides");
    Value v;
    v.kind = Kind::tensor;
    v.integer = values_[a[1]].integer;
    v.items = {a[0], a[2], a[3]};
    push(std::move(v));
  } else if (name == "torch._utils._rebuild_parameter") {
    if (a.empty() || values_[a[0]].kind != Kind::tensor) bad("_rebuild_parameter needs a tensor");
    stack_.push_back(a[0]);
  } else {
    bad(fmt::format("{} is a type, not a function", name));
  }
}

// ('storage', <storage class>, key, device, elements)
void Machine::persistent_load() {
  const Ref id = pop();
  const std::vector<Ref>& a = values_[id].items;
  if (values_[id].kind != Kind::tuple || a.size() != 5 || values_[a[0]].kind != Kind::text || values_[a[0]].text != "storage" ||
      values_[a[1]].kind != Kind::global || !storage_types().count(values_[a[1]].text) || values_[a[2]].kind != Kind::text ||
      values_[a[4]].kind != Kind::integer || values_[a[4]].integer < 0)
    bad("a reference that is not one to a storage");
  Value v;
  v.kind = Kind::storage;
  v.dtype = storage_types().at(values_[a[1]].text);
  v.text = values_[a[2]].text;
  v.integer = values_[a[4]].integer;
  push(std::move(v));
}

void Machine::set_items(const std::vector<Ref>& items) {
  Value& dict = top(Kind::dict, "a dict");
  if (items.size() % 2) bad("a key without a value");
  dict.items.insert(dict.items.end(), items.begin(), items.end());
}

void Machine::integer_opcode(uint8_t op) {
  if (op == 'J') return push(Kind::integer, static_cast<int32_t>(little_endian(4)));
  if (op == 'K') return push(Kind::integer, byte());
  if (op == 'M') return push(Kind::integer, static_cast<int64_t>(little_endian(2)));
  const uint8_t width = byte();  // LONG1: two's complement
  if (width > 8) bad("an integer beyond 64 bits");
  const uint64_t x = little_endian(width);
  const int unused = 64 - 8 * width;
  push(Kind::integer, width == 0 ? 0 : static_cast<int64_t>(x << unused) >> unused);
}

void Machine::text_opcode(uint8_t op) {
  const int width = op == 'X' ? 4 : op == 0x8c ? 1 : 8;
  push_text(take(little_endian(width)));
}

// Opcodes that push one value; false for others.
bool Machine::value_opcode(uint8_t op) {
  switch (op) {
    case 'N': push(Kind::none); return true;
    case 0x88: push(Kind::boolean, 1); return true;
    case 0x89: push(Kind::boolean, 0); return true;
    case 'J': case 'K': case 'M': case 0x8a: integer_opcode(op); return true;
    case 'G': little_endian(8); push(Kind::number); return true;
    case 'X': case 0x8c: case 0x8d: text_opcode(op); return true;
    case '}': push(Kind::dict); return true;
    case ']': push(Kind::list); return true;
    case ')': push(Kind::tuple); return true;
    case '(': push(Kind::mark); return true;
    case 'q': remember(byte()); return true;
    case 'r': remember(little_endian(4)); return true;
    case 0x94: remember(memo_.size()); return true;
    case 'h': recall(byte()); return true;
    case 'j': recall(little_endian(4)); return true;
    default: return false;
  }
}

void Machine::container_opcode(uint8_t op) {
  switch (op) {
    case 0x85: case 0x86: case 0x87: return push_tuple_of(op - 0x84u);
    case 't': return push_sequence(Kind::tuple, pop_to_mark());
    case 'a': case 'e': {
      const std::vector<Ref> items = op == 'a' ? std::vector<Ref>{pop()} : pop_to_mark();
      Value& list = top(Kind::list, "a list");
      list.items.insert(list.items.end(), items.begin(), items.end());
      return;
    }
    case 's': {
      const Ref value = pop(), key = pop();
      return set_items({key, value});
    }
    case 'u': return set_items(pop_to_mark());
    case 'b':  // the attributes of an OrderedDict (torch keeps versions there); they say nothing about tensors
      pop();
      top(Kind::dict, "a dict");
      return;
    case 'R': return reduce();
    case 'Q': return persistent_load();
    case 'c': {
      const std::string module = line();
      return global(module + "." + line());
    }
    case 0x93: {
      const Ref name = pop(), module = pop();
      if (values_[name].kind != Kind::text || values_[module].kind != Kind::text) bad("a global without a name");
      return global(values_[module].text + "." + values_[name].text);
    }
    default: bad(fmt::format("opcode 0x{:02x} is not one that torch.save writes", op));
  }
}

const Value& Machine::run() {
  if (byte() != 0x80) bad("it does not begin as a pickle of protocol 2 or later");
  if (const uint8_t protocol = byte(); protocol < 2 || protocol > 4) bad(fmt::format("protocol {} is not known", protocol));
  for (;;) {
    const uint8_t op = byte();
    if (op == '.') break;
    if (op == 0x95) {
      if (little_endian(8) > bytes_.size()) bad("a frame reaches beyond its end");
    } else if (!value_opcode(op)) {
      container_opcode(op);
    }
  }
  if (at_ != bytes_.size()) bad("something stands behind its end");
  const Ref result = pop();
  if (!stack_.empty()) bad("it leaves more than one value");
  return values_[result];
}

std::vector<int64_t> numbers(const Machine& machine, Ref tuple) {
  std::vector<int64_t> out;
  for (Ref item : machine.at(tuple).items) out.push_back(machine.at(item).integer);
  return out;
}

}  // namespace

std::vector<PickledTensor> read_state_dict(std::string_view pickle, const std::string& source) {
  Machine machine(pickle, source);
  const Value& root = machine.run();
  if (root.kind != Kind::dict) fail("{}: expected a state dict (names to tensors); the file holds something else", source);
  std::vector<PickledTensor> out;
  std::set<std::string> names;
  for (size_t i = 0; i < root.items.size(); i += 2) {
    const Value &key = machine.at(root.items[i]), &value = machine.at(root.items[i + 1]);
    if (key.kind != Kind::text) fail("{}: a key of the state dict is not a text", source);
    if (value.kind != Kind::tensor) fail("{}: \"{}\" is not a tensor; expected a plain state dict", source, key.text);
    if (!names.insert(key.text).second) fail("{}: the tensor \"{}\" is there twice", source, key.text);
    const Value& storage = machine.at(value.items[0]);
    out.push_back({key.text, storage.dtype, storage.text, storage.integer, value.integer, numbers(machine, value.items[1]),
                   numbers(machine, value.items[2])});
  }
  return out;
}

}  // namespace attune::formats
