// What the op tests share: tensors made of doubles, naive gradients by central differences, and one test instance per
// CPU backend that this processor can run, and one for the CUDA kernels on their emulator.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ops/backend.h"
#include "support/backends.h"
#include "tensor/arena.h"

namespace attune::test {

using Doubles = std::vector<double>;

inline Doubles random_doubles(int64_t n, uint64_t seed, double scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  Doubles out(static_cast<size_t>(n));
  for (double& x : out) x = normal(generator);
  return out;
}

inline double rounded(double x, DType dtype) {
  const auto f = static_cast<float>(x);
  return dtype == DType::bf16 ? to_float(to_bf16(f)) : dtype == DType::f16 ? to_float(to_f16(f)) : f;
}
// What is left of the values once they are stored as `dtype`: the reference starts from the same numbers as the op.
inline Doubles rounded(Doubles values, DType dtype) {
  for (double& x : values) x = rounded(x, dtype);
  return values;
}

// A tensor that owns its memory. With a stride beyond cols, what lies between the rows is guarded.
class Owned {
 public:
  Owned(DType dtype, int64_t rows, int64_t cols, int64_t stride = 0) : guarded_(stride > cols) {
    stride = std::max(stride, cols);
    memory_.assign(static_cast<size_t>(rows * stride + 16) * size_of(dtype), 0x5A);
    tensor = {memory_.data(), dtype, Rows::exactly(rows), cols, stride};
  }
  Owned(DType dtype, int64_t rows, int64_t cols, const Doubles& values, int64_t stride = 0) : Owned(dtype, rows, cols, stride) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) put(r, c, values[static_cast<size_t>(r * cols + c)]);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { EXPECT_TRUE(guard_is_intact()) << "an op wrote outside of its tensor"; }

  operator const Tensor&() const { return tensor; }  // NOLINT: a test tensor is a tensor
  Doubles doubles() const {
    Doubles out;
    for (int64_t r = 0; r < tensor.rows.count; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c)
        out.push_back(tensor.dtype == DType::bf16  ? to_float(tensor.row<BFloat16>(r)[c])
                      : tensor.dtype == DType::f16 ? to_float(tensor.row<Float16>(r)[c])
                                                   : tensor.row<float>(r)[c]);
    return out;
  }
  const std::vector<char>& bytes() const { return memory_; }

  Tensor tensor;

 private:
  void put(int64_t r, int64_t c, double x) {
    if (tensor.dtype == DType::bf16) tensor.row<BFloat16>(r)[c] = to_bf16(static_cast<float>(x));
    else if (tensor.dtype == DType::f16) tensor.row<Float16>(r)[c] = to_f16(static_cast<float>(x));
    else tensor.row<float>(r)[c] = static_cast<float>(x);
  }
  bool guard_is_intact() const {
    const size_t size = size_of(tensor.dtype);
    const auto clean = [&](size_t from, size_t to) {
      for (size_t i = from; i < to; ++i)
        if (memory_[i] != 0x5A) return false;
      return true;
    };
    const auto rows = static_cast<size_t>(tensor.rows.count), cols = static_cast<size_t>(tensor.cols),
               stride = static_cast<size_t>(tensor.stride);
    if (!clean(rows * stride * size, memory_.size())) return false;
    for (size_t r = 0; guarded_ && r < rows; ++r)
      if (!clean((r * stride + cols) * size, (r + 1) * stride * size)) return false;
    return true;
  }

  bool guarded_;
  std::vector<char> memory_;
};

template <class T>
Tensor vector_of(const std::vector<T>& v) {
  return Tensor::vector(const_cast<T*>(v.data()), DTypeOf<T>::value, static_cast<int64_t>(v.size()));
}

// max|a−b| / max|b|
inline double error_of(const Doubles& a, const Doubles& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, scale = 1e-30;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    error = std::isfinite(a[i]) ? std::max(error, std::abs(a[i] - b[i])) : INFINITY;
    scale = std::max(scale, std::abs(b[i]));
  }
  return error / scale;
}

// Σ(a−b)² / Σb²
inline double nmse(const Doubles& a, const Doubles& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, scale = 1e-30;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    error += std::isfinite(a[i]) ? (a[i] - b[i]) * (a[i] - b[i]) : INFINITY;
    scale += b[i] * b[i];
  }
  return error / scale;
}

inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Compares an analytic gradient with central differences of `loss` at up to `samples` places.
inline void expect_gradient(const Doubles& analytic, Doubles x, const std::function<double(const Doubles&)>& loss,
                            double tolerance, size_t samples = 64) {
  ASSERT_EQ(analytic.size(), x.size());
  double scale = 1e-6;
  for (double g : analytic) scale = std::max(scale, std::abs(g));
  const size_t step = std::max<size_t>(1, x.size() / samples);
  for (size_t i = 0; i < x.size(); i += step) {
    const double keep = x[i], h = 1e-5;
    x[i] = keep + h;
    const double above = loss(x);
    x[i] = keep - h;
    const double below = loss(x);
    x[i] = keep;
    EXPECT_NEAR(analytic[i], (above - below) / (2 * h), tolerance * scale) << "element " << i;
  }
}

class EveryBackend : public ::testing::TestWithParam<const ops::Backend*> {
 protected:
  Arena arena{Place(GetParam()->device()), uint64_t{256} << 20};
  ops::Context context{*GetParam(), arena};
};

inline std::string backend_name(const ::testing::TestParamInfo<const ops::Backend*>& info) {
  std::string name;  // "cpu (avx2)": avx2; "cuda": cuda
  for (char c : std::string(info.param->name))
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '_') name += c;
  return name.rfind("cpu", 0) == 0 ? name.substr(3) : name;
}

}  // namespace attune::test

#define ATTUNE_EVERY_BACKEND(Suite) \
  INSTANTIATE_TEST_SUITE_P(Cpu, Suite, ::testing::ValuesIn(every_backend()), backend_name)
