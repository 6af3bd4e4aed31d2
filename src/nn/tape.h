// The tape: values, the operations that made them, and the way back.
//
// Memory is a stack. A module allocates what survives it first, then opens a Scope for the rest; when the scope
// closes, values on top that no backward needs are gone, and when backward has passed the scope, everything in it is.
// Blocks are the unit of recomputation and of weight placement.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "nn/parameter.h"
#include "ops/context.h"

namespace attune::nn {

struct Variable {
  Tensor value;
  Tensor gradient;
  Tensor gradient_storage;  // where the gradient is to lie; undefined: on the stack
  bool needs_gradient = false;
  bool gradient_written = false;
  bool gradient_borrowed = false;  // an alias of another's gradient: may be read, not added to
  bool keep = false;               // a recorded backward reads the value
  bool remade = false;             // leaves with its scope even so, and is made again (Tape::remake)
  bool gone = false;               // … and has left
  Arena::Mark begin = 0;           // where its memory begins on the stack
};
using Value = Variable*;

// How the gradient of the head's weight may come.
enum class RowSlabs {
  no,    // in one piece, chunks of tokens are added to it
  kept,  // slabs of rows, each written once, into one piece of the compute dtype
  freed  // slabs of rows, each final with `rows_complete` and gone after it
};

// Where paging, offload, sharding, dequantisation and updates inside backward plug in. All do nothing by default.
class StepHooks {
 public:
  virtual ~StepHooks() = default;
  virtual void acquire(int block) { (void)block; }
  virtual void release(int block) { (void)block; }
  // Every recorded use of the parameter in this step has run backward; input gradients that read it are done.
  virtual void gradient_complete(Parameter& parameter) { (void)parameter; }
  virtual RowSlabs row_slabs(const Parameter& parameter) { return (void)parameter, RowSlabs::no; }
  // The gradient of rows [first_row, first_row + gradient.rows) is final; nothing of this step reads them any more.
  virtual void rows_complete(Parameter& parameter, int64_t first_row, const Tensor& gradient) { (void)parameter, (void)first_row, (void)gradient; }
};

// What backward makes again instead of keeping it: nothing; what is cheap to make from its neighbours (norms, gated
// activations: Tape::remake); whole blocks.
enum class Recompute { none, light, block };

// A place to write or add a gradient to.
struct GradientTarget {
  Tensor tensor;
  bool accumulate = false;
};

class Tape {
 public:
  Tape(ops::Context& context, StepHooks& hooks) : context_(context), hooks_(hooks) {}

  // `training` records; otherwise values live only as long as their scope. `last_micro_batch`: parameters may complete.
  void begin(bool training, Recompute recompute = Recompute::none, bool last_micro_batch = true);
  // Runs everything recorded in reverse.
  void backward();

  ops::Context& context() { return context_; }
  StepHooks& hooks() { return hooks_; }
  bool training() const { return mode_ != Mode::inference; }
  // Whether backward closures are wanted now (a first pass through a recomputed block wants none).
  bool recording() const { return mode_ == Mode::record || mode_ == Mode::replay; }

  // Values -------------------------------------------------------------------------------------------------------
  Value make(Rows rows, int64_t cols, DType dtype, bool needs_gradient);
  // A value in memory that the tape does not own.
  Value wrap(const Tensor& tensor, bool needs_gradient = false);
  // Reserves memory for the gradient now, below all blocks; `add` hands it down the residual stream (whose later
  // values may need a gradient even where this one does not).
  void reserve_gradient(Value value);
  void keep(Value value) { value->keep = true; }
  // With Recompute::light, `values` (one behind the other on the stack, made in this scope) do not outlive the scope; the
  // way back through the scope begins with `again`, which puts them in place (`place`) and computes them once more, to
  // the same bits, from `source`, which is kept for it. What is called last for a value is done last.
  template <class F>
  void remake(std::initializer_list<Value> values, Value source, F&& again) {
    if (recompute_ != Recompute::light || mode_ != Mode::record) return;
    Remake r{{}, source, node(std::forward<F>(again))};
    std::copy(values.begin(), values.end(), r.values.begin());
    for (Value v : values) v->remade = true;
    remakes_.push_back(r);
  }
  // Memory for a value that has left its scope.
  void place(Value value);

  template <class F>
  void record(F&& backward) {
    if (recording()) nodes_.push_back(node(std::forward<F>(backward)));
  }

  // Gradients ----------------------------------------------------------------------------------------------------
  GradientTarget gradient_of(Value value);
  // The gradient of `value` is the gradient `from` of a sum it went into: shared where possible, added otherwise.
  void share_gradient(const Tensor& from, Value value, bool borrow);

  // Parameters ---------------------------------------------------------------------------------------------------
  // Announces one use with gradient; each must be answered by one `complete_use` in backward.
  void announce_use(Parameter& parameter);
  // Without storage of its own a gradient lives on the stack from here on, until the parameter is complete.
  void reserve_gradient(Parameter& parameter);
  GradientTarget gradient_of(Parameter& parameter);
  // One target for adjacent parameters, or an undefined tensor where they must be treated one by one.
  GradientTarget gradient_of(const std::vector<Parameter*>& adjacent);
  void complete_use(Parameter& parameter);

  // Structure ----------------------------------------------------------------------------------------------------
  class Scope {
   public:
    explicit Scope(Tape& tape);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Tape& tape_;
    size_t first_value_, first_remake_;
    Arena::Mark mark_;
  };

  // Runs `body(Value) -> Value` as block number `index`.
  template <class F>
  Value block(int index, Value x, F body) {
    check_block_input(x);
    hooks_.acquire(index);
    Value y = nullptr;
    if (mode_ == Mode::inference) {
      y = run_in_place(x, body);
    } else if (recompute_ == Recompute::block) {
      y = run_and_forget(index, x, body);
    } else {
      const Arena::Mark mark = context_.arena().mark();
      record([this, index, mark] {
        context_.arena().release(mark);
        hooks_.release(index);
      });
      context_.arena().begin_part("blocks");
      y = body(x);
      record([this, index] {
        context_.arena().begin_part("backward");
        hooks_.acquire(index);
      });
    }
    context_.arena().begin_part("head");
    hooks_.release(index);
    return y;
  }

 private:
  enum class Mode { inference, record, forget, replay };
  struct Node {
    void (*run)(void*);
    void* closure;
  };
  struct Remake {
    std::array<Value, 3> values{};
    Value source = nullptr;
    Node again{};
  };

  template <class F>
  Node node(F&& run) {
    using Closure = std::decay_t<F>;
    static_assert(std::is_trivially_destructible_v<Closure>, "tape closures live in memory that is simply reused");
    void* at = closures_.allocate(sizeof(Closure), alignof(Closure));
    new (at) Closure(std::forward<F>(run));
    return {[](void* closure) { (*static_cast<Closure*>(closure))(); }, at};
  }
  // Memory that is handed out piece by piece and reused as a whole: no allocation once it has grown.
  class Bump {
   public:
    void* allocate(size_t bytes, size_t alignment);
    void reset() { chunk_ = 0, at_ = 0; }

   private:
    static constexpr size_t kChunk = 1 << 18;
    std::vector<std::unique_ptr<std::byte[]>> chunks_;
    size_t chunk_ = 0, at_ = 0;
  };

  // The gradient of a block's input must not lie inside the block: that memory goes when backward leaves it.
  void check_block_input(Value x) const;
  void copy(const Tensor& from, const Tensor& to);
  Tensor stack_gradient(Rows rows, int64_t cols, DType dtype);
  void trim(size_t first_value, Arena::Mark mark);
  void record_remakes(size_t first);

  template <class F>
  Value run_in_place(Value x, F& body) {
    const ArenaPart part(context_.arena(), "blocks");
    const Arena::Mark mark = context_.arena().mark();
    const size_t values = stack_.size();
    Value y = body(x);
    if (y->value.data != x->value.data) copy(y->value, x->value);
    stack_.resize(values);
    context_.arena().release(mark);
    return x;
  }

  template <class F>
  Value run_and_forget(int index, Value x, F body) {
    context_.arena().begin_part("blocks");
    Value y = make(x->value.rows, x->value.cols, x->value.dtype, false);
    {
      const ArenaPart part(context_.arena(), "backward");
      const Mode outer = mode_;
      mode_ = Mode::forget;
      const Arena::Mark mark = context_.arena().mark();
      const size_t values = stack_.size();
      Value inner = body(x);
      copy(inner->value, y->value);
      y->needs_gradient = inner->needs_gradient;
      if (inner->gradient_storage.data == x->gradient_storage.data) y->gradient_storage = x->gradient_storage;
      stack_.resize(values);
      context_.arena().release(mark);
      mode_ = outer;
    }
    keep(x);
    y->keep = true;
    record([this, index, x, y, body] {
      context_.arena().begin_part("backward");
      hooks_.acquire(index);
      const Arena::Mark mark = context_.arena().mark();
      const size_t values = stack_.size();
      mode_ = Mode::replay;
      record([this, index, mark, values] {
        stack_.resize(values);
        context_.arena().release(mark);
        hooks_.release(index);
      });
      F again = body;
      Value inner = again(x);
      inner->gradient = y->gradient;
      inner->gradient_written = y->gradient_written;
      mode_ = Mode::record;
    });
    return y;
  }

  ops::Context& context_;
  StepHooks& hooks_;
  Mode mode_ = Mode::inference;
  Recompute recompute_ = Recompute::none;
  bool last_micro_batch_ = true;
  std::vector<Node> nodes_;
  std::vector<Remake> remakes_;  // of the scopes that are open
  std::vector<Value> stack_;  // values whose memory lies on the arena, oldest first
  Bump variables_, closures_;
};

}  // namespace attune::nn
