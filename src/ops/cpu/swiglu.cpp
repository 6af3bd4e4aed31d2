#include "ops/cpu/lanes.h"

namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

// The activation and its derivative at g.
struct Activated {
  Floats value, slope;
};
struct Silu {
  [[gnu::always_inline]] static Activated at(Floats g) {
    const Floats s = reciprocal(1.0f + exp(-g));
    return {g * s, s * (1.0f + g * (1.0f - s))};
  }
};
struct GeluTanh {
  [[gnu::always_inline]] static Activated at(Floats g) {
    constexpr float kRoot = 0.7978845608f, kCubic = 0.044715f;
    const Floats t = tanh(kRoot * (g + kCubic * g * g * g));
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
        over(f, [&](int64_t j, auto part) {
          fetch(g + j + kAhead), fetch(u + j + kAhead), fetch(y + j + kAhead);
          part.store(activation.at(part.load(g + j)).value * part.load(u + j), y + j);
        });
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
        over(f, [&](int64_t j, auto part) {
          fetch(g + j + kAhead), fetch(u + j + kAhead), fetch(dy + j + kAhead);
          const Floats grad = part.load(dy + j), up = part.load(u + j);
          const Activated a = activation.at(part.load(g + j));
          part.store(grad * up * a.slope, dg + j);
          part.store(grad * a.value, du + j);
        });
      }
    });
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
