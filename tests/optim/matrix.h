// One matrix of any size and type with its optimizer, for the tests of this room.
#pragma once

#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "ops/backend.h"
#include "util/rng.h"

namespace attune::test {

inline std::string bytes_of(const Tensor& t) { return {static_cast<const char*>(t.data), t.bytes()}; }

struct Matrix {
  Matrix(const optim::OptimizerOptions& options, DType dtype, bool masters, int64_t rows, int64_t cols,
         const ops::Backend& backend = ops::cpu_backend(), const std::string& name = "model.layers.0.matrix.weight")
      : optimizer(optim::Optimizer::create(options)), context(backend, arena) {
    store.add(name, {rows, cols});
    store.allocate_weights(Place::host(), dtype);
    if (masters && dtype != DType::f32) store.allocate_masters(Place::host());
    fill(p().stepped(), 1, 0.5f);
    if (p().master.defined()) convert(p().master.data, DType::f32, p().weight.data, dtype, static_cast<size_t>(p().count()));
    if (options.anchor_decay > 0) store.allocate_anchors(Place::host(), dtype);
    p().gradient_dtype = dtype;
    store.allocate_gradients(Place::host(), {&p()});
    optimizer->allocate(Place::host(), store);
  }
  static void fill(const Tensor& t, uint64_t key, float scale) {
    std::vector<float> x(static_cast<size_t>(t.count()));
    for (size_t i = 0; i < x.size(); ++i) x[i] = scale * (uniform_float(element_bits(key, i)) - 0.5f);
    put(t, x);
  }
  static void put(const Tensor& t, const std::vector<float>& x) { convert(x.data(), DType::f32, t.data, t.dtype, x.size()); }
  void draw_gradient(int64_t t) { fill(p().gradient, 1000 + static_cast<uint64_t>(t), 0.2f); }
  void step(int64_t t, float lr = 0.01f, float grad_scale = 1) {
    draw_gradient(t);
    optimizer->step(context, p(), t, lr, grad_scale);
  }
  nn::Parameter& p() { return *store.all()[0]; }

  nn::ParameterStore store;
  std::unique_ptr<optim::Optimizer> optimizer;
  Arena arena{Place::host(), 256 << 20};
  ops::Context context;
};

}  // namespace attune::test
