#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

// The activation and its derivative at g.
struct Activated {
  float value, slope;
};
__device__ Activated activate(GateActivation activation, float g) {
  if (activation == GateActivation::silu) {
    const float s = 1.0f / (1.0f + expf(-g));
    return {g * s, s * (1.0f + g * (1.0f - s))};
  }
  constexpr float kRoot = 0.7978845608f, kCubic = 0.044715f;
  const float t = tanhf(kRoot * (g + kCubic * g * g * g));
  return {0.5f * g * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * g * (1.0f - t * t) * kRoot * (1.0f + 3.0f * kCubic * g * g)};
}

struct Forward {
  View x, y;
  int64_t f;
  GateActivation activation;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float g[N], u[N];
    load(x, row, col, g);
    load(x, row, f + col, u);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = activate(activation, g[i]).value * u[i];
    store(g, y, row, col);
  }
};

struct Backward {
  View x, dy, dx;
  int64_t f;
  GateActivation activation;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float g[N], u[N], d[N];
    load(x, row, col, g);
    load(x, row, f + col, u);
    load(dy, row, col, d);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Activated a = activate(activation, g[i]);
      g[i] = d[i] * u[i] * a.slope;
      u[i] = d[i] * a.value;
    }
    store(g, dx, row, col);
    store(u, dx, row, f + col);
  }
};

}  // namespace

void swiglu_forward(const SwigluForward& a) {
  over_elements("swiglu_forward", a.y.rows.count, a.y.cols, wide(a.y.cols, {a.x, a.y}), Forward{a.x, a.y, a.y.cols, a.activation});
}

void swiglu_backward(const SwigluBackward& a) {
  over_elements("swiglu_backward", a.dy.rows.count, a.dy.cols, wide(a.dy.cols, {a.x, a.dy, a.dx}), Backward{a.x, a.dy, a.dx, a.dy.cols, a.activation});
}

}  // namespace attune::ops::cuda
