// A tape over a few parameters with random numbers: the smallest thing that modules can be tested on.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "nn/tape.h"
#include "ops/backend.h"

namespace attune::test {

class Toy : public ::testing::Test {
 protected:
  Arena arena{Place::host(), uint64_t{1} << 30};
  ops::Context context{ops::cpu_backend(), arena};
  nn::StepHooks hooks;
  nn::Tape tape{context, hooks};
  nn::ParameterStore store;

  // Call when all parameters are declared: weights with random numbers, and gradients.
  void allocate(uint64_t seed = 1) {
    store.allocate_weights(Place::host(), DType::f32);
    std::vector<nn::Parameter*> all;
    for (const auto& p : store.all()) {
      fill(p->weight, seed++);
      all.push_back(p.get());
    }
    store.allocate_gradients(Place::host(), all);
    store.begin_step();
  }
  static void fill(const Tensor& t, uint64_t seed, float scale = 0.5f) {
    std::mt19937_64 generator(seed);
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < t.count(); ++i) t.as<float>()[i] = normal(generator);
  }
  nn::Value input(int64_t rows, int64_t cols, uint64_t seed = 99, bool needs_gradient = true) {
    nn::Value x = tape.make(Rows::exactly(rows), cols, DType::f32, needs_gradient);
    tape.keep(x);
    fill(x->value, seed);
    return x;
  }
  // What backward starts from: d(loss)/d(y) with loss = Σ y∘(this).
  Tensor seed_gradient(nn::Value y, uint64_t seed = 77) {
    const Tensor g = arena.matrix(y->value.rows, y->value.cols, DType::f32);
    fill(g, seed);
    y->gradient = g;
    y->gradient_written = true;
    return g;
  }
  static std::vector<double> doubles(const Tensor& t) { return {t.as<float>(), t.as<float>() + t.count()}; }
};

// loss(perturbed copy of `values`) by central differences against `analytic`, in double precision.
template <class Loss>
void expect_differences(const Tensor& analytic, std::vector<double>& values, Loss loss, double tolerance = 1e-4) {
  double scale = 1e-3;
  for (int64_t i = 0; i < analytic.count(); ++i) scale = std::max(scale, std::abs(static_cast<double>(analytic.as<float>()[i])));
  for (size_t i = 0; i < values.size(); i += std::max<size_t>(1, values.size() / 40)) {
    const double keep = values[i], h = 1e-5;
    values[i] = keep + h;
    const double above = loss();
    values[i] = keep - h;
    const double below = loss();
    values[i] = keep;
    EXPECT_NEAR(analytic.as<float>()[i], (above - below) / (2 * h), tolerance * scale) << "element " << i;
  }
}

}  // namespace attune::test
