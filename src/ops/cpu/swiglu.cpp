#include "ops/cpu/kernel.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

[[gnu::always_inline]] inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// The activation and its derivative at g.
struct Activated {
  float value, slope;
};
struct Silu {
  [[gnu::always_inline]] static Activated at(float g) {
    const float s = sigmoid(g);
    return {g * s, s * (1.0f + g * (1.0f - s))};
  }
};
struct GeluTanh {
  [[gnu::always_inline]] static Activated at(float g) {
    constexpr float kRoot = 0.7978845608f, kCubic = 0.044715f;
    const float t = fast_tanh(kRoot * (g + kCubic * g * g * g));
    return {0.5f * g * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * g * (1.0f - t * t) * kRoot * (1.0f + 3.0f * kCubic * g * g)};
  }
};

template <class F>
[[gnu::always_inline]] inline void with_activation(GateActivation activation, F&& f) {
  if (activation == GateActivation::gelu_tanh) f(GeluTanh{});
  else f(Silu{});
}

}  // namespace

void swiglu_forward(const SwigluForward& args) {
  const int64_t n = args.y.rows.count, f = args.y.cols;
  with_activation(args.activation, [&](auto activation) {
    with_type(args.x.dtype, [&](auto x0) {
      using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * f > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const T* g = args.x.row<T>(i);
        const T* u = g + f;
        T* y = args.y.row<T>(i);
        for (int64_t j = 0; j < f; ++j) y[j] = from_float<T>(activation.at(to_float(g[j])).value * to_float(u[j]));
      }
    });
  });
}

void swiglu_backward(const SwigluBackward& args) {
  const int64_t n = args.dy.rows.count, f = args.dy.cols;
  with_activation(args.activation, [&](auto activation) {
    with_type(args.x.dtype, [&](auto x0) {
      using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * f > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const T* g = args.x.row<T>(i);
        const T* u = g + f;
        const T* dy = args.dy.row<T>(i);
        T* dg = args.dx.row<T>(i);
        T* du = dg + f;
        for (int64_t j = 0; j < f; ++j) {
          const float up = to_float(u[j]), grad = to_float(dy[j]);
          const Activated a = activation.at(to_float(g[j]));
          dg[j] = from_float<T>(grad * up * a.slope);
          du[j] = from_float<T>(grad * a.value);
        }
      }
    });
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
