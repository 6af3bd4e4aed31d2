#include "nn/parameter.h"

#include <algorithm>

#include "tensor/transfer.h"
#include "util/error.h"

namespace attune::nn {
namespace {

uint64_t aligned(uint64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t rows_of(const Parameter& p) { return p.shape.size() == 1 ? 1 : p.shape[0]; }
int64_t cols_of(const Parameter& p) { return p.shape.back(); }

}  // namespace

void Parameter::set(int64_t first, std::span<const float> values) {
  put(*device, weight, first, values);
  if (master.defined()) put(*device, master, first, values);
}

void Parameter::refresh() {
  if (master.defined()) convert_on(*device, master, weight);
}

std::vector<Parameter*> ParameterStore::add_group(const std::vector<Spec>& specs) {
  std::vector<Parameter*> group;
  for (const Spec& spec : specs) {
    if (find(spec.name)) fail("internal error: parameter {} is declared twice", spec.name);
    auto p = std::make_unique<Parameter>();
    p->name = spec.name;
    p->shape = spec.shape;
    group.push_back(p.get());
    by_name_[spec.name] = p.get();
    parameters_.push_back(std::move(p));
  }
  groups_.push_back(group);
  return group;
}

Parameter* ParameterStore::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

int64_t ParameterStore::count() const {
  int64_t n = 0;
  for (const auto& p : parameters_) n += rows_of(*p) * cols_of(*p);
  return n;
}

int64_t ParameterStore::trainable_count() const {
  int64_t n = 0;
  for (const auto& p : parameters_)
    if (p->learns()) n += rows_of(*p) * cols_of(*p);
  return n;
}

uint64_t ParameterStore::allocate(std::unique_ptr<Arena>& arena, Place place, Tensor Parameter::*slot,
                                  const std::vector<std::vector<Parameter*>>& groups,
                                  DType (*dtype_of)(const Parameter&)) {
  uint64_t total = 0;
  for (const auto& group : groups) {
    uint64_t bytes = 0;
    for (const Parameter* p : group) bytes += static_cast<uint64_t>(rows_of(*p) * cols_of(*p)) * size_of(dtype_of(*p));
    total += aligned(bytes);
  }
  arena = std::make_unique<Arena>(place, total);
  arena->clear("weights, masters or gradients");
  for (const auto& group : groups) {
    uint64_t bytes = 0;
    for (const Parameter* p : group) bytes += static_cast<uint64_t>(rows_of(*p) * cols_of(*p)) * size_of(dtype_of(*p));
    auto* at = static_cast<char*>(arena->allocate(bytes));
    for (Parameter* p : group) {
      if (!place.is_dry()) p->device = &place.device();
      p->*slot = Tensor::matrix(at, dtype_of(*p), rows_of(*p), cols_of(*p));
      at += (p->*slot).bytes();
    }
  }
  return total;
}

namespace {

// Every dtype as a plain function: what `allocate` asks of each parameter.
DType (*constant(DType dtype))(const Parameter&) {
  if (dtype == DType::bf16) return [](const Parameter&) { return DType::bf16; };
  if (dtype == DType::f16) return [](const Parameter&) { return DType::f16; };
  return [](const Parameter&) { return DType::f32; };
}

}  // namespace

std::vector<std::vector<Parameter*>> ParameterStore::trainable_one_by_one() const {
  std::vector<std::vector<Parameter*>> groups;
  for (const auto& p : parameters_)
    if (p->is_stepped()) groups.push_back({p.get()});
  return groups;
}

uint64_t ParameterStore::allocate_weights(Place place, DType dtype) {
  std::vector<std::vector<Parameter*>> dense;
  for (const auto& group : groups_)
    if (!group[0]->is_quantized()) dense.push_back(group);
  return allocate(weights_, place, &Parameter::weight, dense, constant(dtype)) + allocate_quantized(place, dtype);
}

uint64_t ParameterStore::allocate_quantized(Place place, DType dtype) {
  std::vector<Parameter*> all;
  uint64_t total = 0;
  for (const auto& p : parameters_)
    if (p->is_quantized()) all.push_back(p.get()), total += QuantizedMatrix::bytes(p->quantized.how, rows_of(*p), cols_of(*p));
  quantized_ = std::make_unique<Arena>(place, total);
  quantized_->clear("quantised weights");
  for (Parameter* p : all) {
    const auto how = p->quantized.how;
    const int64_t rows = rows_of(*p), cols = cols_of(*p);
    p->quantized = QuantizedMatrix::over(quantized_->allocate(QuantizedMatrix::bytes(how, rows, cols)), how, rows, cols);
    p->weight = Tensor::matrix(nullptr, dtype, rows, cols);
    if (!place.is_dry()) p->device = &place.device();
  }
  return total;
}

uint64_t ParameterStore::allocate_masters(Place place) {
  return allocate(masters_, place, &Parameter::master, trainable_one_by_one(), constant(DType::f32));
}

uint64_t ParameterStore::allocate_anchors(Place place, DType dtype) {
  const uint64_t bytes = allocate(anchors_, place, &Parameter::anchor, trainable_one_by_one(), constant(dtype));
  if (place.is_dry()) return bytes;
  for (const auto& p : parameters_)
    if (p->is_stepped()) convert_on(*p->device, p->stepped(), p->anchor);
  return bytes;
}

uint64_t ParameterStore::allocate_gradients(Place place, const std::vector<Parameter*>& wanted) {
  std::vector<std::vector<Parameter*>> groups;
  for (const auto& group : groups_) {
    std::vector<Parameter*> chosen;
    for (Parameter* p : group)
      if (p->trainable && std::find(wanted.begin(), wanted.end(), p) != wanted.end()) chosen.push_back(p);
    if (!chosen.empty()) groups.push_back(chosen);
  }
  return allocate(gradients_, place, &Parameter::gradient, groups, [](const Parameter& p) { return p.gradient_dtype; });
}

void ParameterStore::begin_step() {
  for (const auto& p : parameters_) {
    p->gradient_written = false;
    p->pending_uses = 0;
  }
}

}  // namespace attune::nn
