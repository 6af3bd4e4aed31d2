#include "nn/tape.h"

#include "ops/elementwise.h"
#include "util/error.h"

namespace attune::nn {

void* Tape::Bump::allocate(size_t bytes, size_t alignment) {
  at_ = (at_ + alignment - 1) / alignment * alignment;
  if (chunks_.empty() || at_ + bytes > kChunk) {
    if (!chunks_.empty()) ++chunk_;
    if (chunk_ == chunks_.size()) chunks_.push_back(std::make_unique<std::byte[]>(kChunk));
    at_ = 0;
  }
  void* p = chunks_[chunk_].get() + at_;
  at_ += bytes;
  return p;
}

void Tape::begin(bool training, Recompute recompute, bool last_micro_batch) {
  mode_ = training ? Mode::record : Mode::inference;
  recompute_ = recompute;
  last_micro_batch_ = last_micro_batch;
  nodes_.clear();
  remakes_.clear();
  stack_.clear();
  variables_.reset();
  closures_.reset();
}

void Tape::backward() {
  // A recomputed block records anew while its node runs, so nodes are taken one by one from the end.
  while (!nodes_.empty()) {
    const Node node = nodes_.back();
    nodes_.pop_back();
    node.run(node.closure);
  }
}

Value Tape::make(Rows rows, int64_t cols, DType dtype, bool needs_gradient) {
  Value v = new (variables_.allocate(sizeof(Variable), alignof(Variable))) Variable;
  v->begin = context_.arena().mark();
  v->value = context_.arena().matrix(rows, cols, dtype);
  v->needs_gradient = needs_gradient && training();
  stack_.push_back(v);
  return v;
}

Value Tape::wrap(const Tensor& tensor, bool needs_gradient) {
  Value v = new (variables_.allocate(sizeof(Variable), alignof(Variable))) Variable;
  v->value = tensor;
  v->needs_gradient = needs_gradient && training();
  return v;
}

void Tape::reserve_gradient(Value value) {
  if (!training()) return;
  Value storage = make(value->value.rows, value->value.cols, value->value.dtype, false);
  storage->keep = true;
  value->gradient_storage = storage->value;
}

GradientTarget Tape::gradient_of(Value v) {
  if (v->gradient_borrowed) fail("internal error: a borrowed gradient would be added to");
  if (v->gradient_written) return {v->gradient, true};
  v->gradient = v->gradient_storage.defined()
                    ? v->gradient_storage
                    : context_.arena().matrix(v->value.rows, v->value.cols, v->value.dtype);
  v->gradient_written = true;
  return {v->gradient, false};
}

void Tape::share_gradient(const Tensor& from, Value v, bool borrow) {
  if (!v->needs_gradient) return;
  if (v->gradient_written) {
    ops::add(context_, {v->gradient, from, v->gradient});
    return;
  }
  v->gradient = from;
  v->gradient_written = true;
  v->gradient_borrowed = borrow;
}

void Tape::announce_use(Parameter& p) {
  if (p.trainable && (mode_ == Mode::record || mode_ == Mode::forget)) ++p.pending_uses;
}

Tensor Tape::stack_gradient(Rows rows, int64_t cols, DType dtype) {
  Arena& arena = context_.arena();
  const std::string_view outer = arena.begin_part("gradients");
  const Tensor gradient = arena.matrix(rows, cols, dtype);
  arena.begin_part(outer);
  return gradient;
}

void Tape::reserve_gradient(Parameter& p) {
  if (p.gradient.defined()) return;
  p.gradient = stack_gradient(p.weight.rows, p.weight.cols, p.gradient_dtype);
  p.gradient_written = false;
}

GradientTarget Tape::gradient_of(Parameter& p) {
  reserve_gradient(p);
  const bool accumulate = p.gradient_written;
  p.gradient_written = true;
  return {p.gradient, accumulate};
}

GradientTarget Tape::gradient_of(const std::vector<Parameter*>& group) {
  const Parameter& first = *group[0];
  int64_t rows = 0;
  for (const Parameter* p : group) {
    if (!p->trainable || p->gradient_written != first.gradient_written ||
        p->gradient.defined() != first.gradient.defined() || p->gradient_dtype != first.gradient_dtype)
      return {};
    rows += p->weight.rows.count;
  }
  Tensor whole;
  if (first.gradient.defined()) {
    whole = Tensor::matrix(first.gradient.data, first.gradient_dtype, rows, first.weight.cols);
    const char* at = static_cast<const char*>(whole.data);
    for (const Parameter* p : group) {
      if (p->gradient.data != at) return {};
      at += p->gradient.bytes();
    }
  } else {
    whole = stack_gradient(Rows::exactly(rows), first.weight.cols, first.gradient_dtype);
    int64_t row = 0;
    for (Parameter* p : group) {
      p->gradient = whole.slice(row, p->weight.rows.count);
      row += p->weight.rows.count;
    }
  }
  const bool accumulate = first.gradient_written;
  for (Parameter* p : group) p->gradient_written = true;
  return {whole, accumulate};
}

void Tape::complete_use(Parameter& p) {
  if (--p.pending_uses < 0) fail("internal error: {} was completed more often than used", p.name);
  if (p.pending_uses == 0 && last_micro_batch_) hooks_.gradient_complete(p);
}

Tape::Scope::Scope(Tape& tape)
    : tape_(tape), first_value_(tape.stack_.size()), first_remake_(tape.remakes_.size()), mark_(tape.context_.arena().mark()) {
  const Arena::Mark mark = mark_;
  tape.record([&tape, mark] {
    Arena& arena = tape.context_.arena();
    if (arena.mark() > mark) arena.release(mark);  // the scope around this one may have dropped all of it
  });
}

Tape::Scope::~Scope() {
  tape_.trim(first_value_, mark_);
  tape_.record_remakes(first_remake_);
}

void Tape::trim(size_t first_value, Arena::Mark mark) {
  const bool everything = !recording();
  while (stack_.size() > first_value && (everything || !stack_.back()->keep || stack_.back()->remade)) {
    stack_.back()->gone = true;
    context_.arena().release(stack_.back()->begin);
    stack_.pop_back();
  }
  if (stack_.size() == first_value) context_.arena().release(mark);
}

// Only what has left (a kept value may lie above it) and is read again has to be made again.
void Tape::record_remakes(size_t first) {
  for (size_t i = remakes_.size(); i > first; --i) {
    const Remake& r = remakes_[i - 1];
    bool wanted = false;
    for (Value v : r.values) {
      if (!v) continue;
      wanted |= v->gone && v->keep;
      v->remade &= v->gone;
    }
    if (!wanted) continue;
    nodes_.push_back(r.again);
    keep(r.source);
  }
  remakes_.resize(first);
}

void Tape::place(Value v) {
  const bool own_gradient = v->gradient_storage.defined() && v->gradient_storage.data != v->value.data;
  const Tensor placed = context_.arena().matrix(v->value.rows, v->value.cols, v->value.dtype);
  if (v->gradient_storage.defined() && !own_gradient) v->gradient_storage.data = placed.data;
  v->value.data = placed.data;
}

void Tape::check_block_input(Value x) const {
  if (!training()) return;
  if (!x->gradient_storage.defined())
    fail("internal error: the input of a block has no reserved gradient (Tape::reserve_gradient)");
}

void Tape::copy(const Tensor& from, const Tensor& to) { ops::scale(context_, {from, to, 1.0f, false}); }

}  // namespace attune::nn
