// A parameter: the Hugging Face name it is saved under, and views into where its numbers lie.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/arena.h"
#include "tensor/quantized.h"

namespace attune::nn {

// How ops read a dense weight. Those of a quantised base are read by nn/weight_product.h alone.
struct WeightView {
  Tensor dense;
  int64_t rows() const { return dense.rows.count; }
  int64_t cols() const { return dense.cols; }
};

struct Parameter {
  std::string name;
  std::vector<int64_t> shape;  // as saved; one or two dimensions
  Tensor weight;               // [rows, cols]; vectors are one row. Of a quantised weight only the shape: there is no memory
  QuantizedMatrix quantized;   // instead; its `how` is decided before storage is allocated. Such a weight never learns
  Tensor master;               // fp32 copy that the optimizer steps, where the weight is narrower
  Tensor anchor;               // the base model's weight, where the parameter is held near it
  Tensor gradient;             // undefined until somebody gives it storage
  Device* device = &host();    // where all of these lie
  DType gradient_dtype = DType::f32;
  bool trainable = true;   // takes part in this step
  bool rotates = false;    // takes part in some steps and rests in others (tuning/block_rotation.h)
  bool added = false;     // by an adapter: the base model's files do not have it
  bool derived = false;   // computed from other parameters: has a gradient, which theirs follow from, and no state of its own
  std::string adapter_name;  // in an adapter's file; empty: not part of one
  bool is_table = false;  // one row a word (embedding, head): rules for hidden matrices leave it out
  float lr_scale = 1;  // of the run's learning rate
  bool gradient_written = false;
  int pending_uses = 0;  // uses recorded with gradient in this step whose backward has not run

  int64_t count() const { return weight.count(); }
  bool learns() const { return (trainable || rotates) && !derived; }  // at some time of the run
  bool is_stepped() const { return trainable && !derived; }           // by the optimizer, in this step
  bool is_quantized() const { return quantized.on(); }
  uint64_t weight_bytes() const { return is_quantized() ? quantized.bytes() : weight.bytes(); }
  bool is_vector() const { return shape.size() == 1; }
  WeightView view() const { return {weight}; }
  // What the optimizer steps.
  Tensor& stepped() { return master.defined() ? master : weight; }
  // Weight and master ← values of the host, from element `first` on.
  void set(int64_t first, std::span<const float> values);
  // The weight ← its master.
  void refresh();
};

// Owns all parameters of a model. Parameters that are added as one group lie next to each other, so a fused
// product over the group (q‖k‖v, gate‖up) is one view; each keeps its own name and identity.
class ParameterStore {
 public:
  struct Spec {
    std::string name;
    std::vector<int64_t> shape;
  };

  std::vector<Parameter*> add_group(const std::vector<Spec>& specs);
  Parameter& add(const std::string& name, std::vector<int64_t> shape) { return *add_group({{name, std::move(shape)}})[0]; }

  const std::vector<std::unique_ptr<Parameter>>& all() const { return parameters_; }
  Parameter* find(const std::string& name) const;  // nullptr where there is none
  int64_t count() const;
  int64_t trainable_count() const;

  // Storage. Dry storage has addresses but no memory. Each returns the bytes taken.
  uint64_t allocate_weights(Place place, DType dtype);
  // fp32 copies of the trainable parameters; their content is for the caller to fill.
  uint64_t allocate_masters(Place place);
  // Copies of the trainable parameters as they are now, in `dtype`; filled where `place` is real.
  uint64_t allocate_anchors(Place place, DType dtype);
  // Gradients of the trainable parameters `wanted` selects, each in its gradient_dtype; groups stay adjacent.
  uint64_t allocate_gradients(Place place, const std::vector<Parameter*>& wanted);

  // Forgets gradients and open uses before a step.
  void begin_step();

 private:
  std::vector<std::vector<Parameter*>> trainable_one_by_one() const;
  uint64_t allocate(std::unique_ptr<Arena>& arena, Place place, Tensor Parameter::*slot,
                    const std::vector<std::vector<Parameter*>>& groups, DType (*dtype_of)(const Parameter&));
  uint64_t allocate_quantized(Place place, DType dtype);

  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::map<std::string, Parameter*> by_name_;
  std::vector<std::vector<Parameter*>> groups_;
  std::unique_ptr<Arena> weights_, quantized_, masters_, anchors_, gradients_;
};

}  // namespace attune::nn
