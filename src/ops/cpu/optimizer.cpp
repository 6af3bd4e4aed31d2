#include "ops/cpu/kernel.h"
#include "util/rng.h"

// Blocks are converted to fp32, stepped there and rounded back: the rules below know nothing of storage.
namespace attune::ops::cpu::ATTUNE_ISA {
namespace {

constexpr int64_t kBlock = 512;

struct Range {
  int64_t begin, n;
};

void load(const Tensor& t, Range r, float* out) {
  with_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = t.as<T>() + r.begin;
    for (int64_t i = 0; i < r.n; ++i) out[i] = to_float(x[i]);
  });
}

// A stream of random bits, one word an element: `half` chooses 16 of its 32 bits.
struct Bits {
  uint64_t key;
  int half;
  int64_t first_element;
};

// bf16 is rounded stochastically.
void store(const float* in, const Tensor& t, Range r, Bits bits) {
  if (t.dtype == DType::bf16) {
    auto* x = t.as<BFloat16>() + r.begin;
    const auto first = static_cast<uint64_t>(bits.first_element + r.begin);
    for (int64_t i = 0; i < r.n; ++i)
      x[i] = to_bf16_stochastic(in[i], element_bits(bits.key, first + static_cast<uint64_t>(i)) >> (16 * bits.half));
  } else {
    std::memcpy(t.as<float>() + r.begin, in, static_cast<size_t>(r.n) * sizeof(float));
  }
}

void refresh(const float* p, const Tensor& copy, Range r) {
  if (!copy.defined()) return;
  with_type(copy.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* x = copy.as<T>() + r.begin;
    for (int64_t i = 0; i < r.n; ++i) x[i] = from_float<T>(p[i]);
  });
}

// Gradient scaled and parameter decayed, in fp32.
void begin_block(const Stepped& s, Range r, float* p, float* g) {
  load(s.parameter, r, p);
  load(s.gradient, r, g);
  for (int64_t i = 0; i < r.n; ++i) g[i] *= s.grad_scale;
  const float decay = s.weight_decay, pull = s.anchor.defined() ? s.anchor_decay : 0.0f;
  if (decay == 0 && pull == 0) return;
  float toward[kBlock];
  if (pull != 0) load(s.anchor, r, toward);
  else std::fill(toward, toward + r.n, 0.0f);
  if (s.decoupled) {
    for (int64_t i = 0; i < r.n; ++i) p[i] = p[i] * (1.0f - s.lr * decay) - s.lr * pull * (p[i] - toward[i]);
  } else {
    for (int64_t i = 0; i < r.n; ++i) g[i] += decay * p[i] + pull * (p[i] - toward[i]);
  }
}

// Four streams: one for the weight, three for states.
Bits weight_bits(const Stepped& s) { return {s.rounding_key, 0, s.first_element}; }
Bits state_bits(const Stepped& s, int state) {
  return {state == 0 ? s.rounding_key : mix_key(s.rounding_key, 1), state == 1 ? 0 : 1, s.first_element};
}

void end_block(const Stepped& s, Range r, const float* p) {
  store(p, s.parameter, r, weight_bits(s));
  refresh(p, s.copy, r);
}

// rule(range, p, g) steps p; blocks are fixed, so every thread count gives the same bits.
template <class F>
void sweep(const Stepped& s, F&& rule) {
  const int64_t n = s.parameter.count();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t at = 0; at < n; at += kBlock) {
    const Range r{at, std::min(kBlock, n - at)};
    float p[kBlock], g[kBlock];
    begin_block(s, r, p, g);
    rule(r, p, g);
    end_block(s, r, p);
  }
}

}  // namespace

void adam(const Adam& a) {
  const float step = a.of.lr / a.correction1, root2 = std::sqrt(a.correction2);
  sweep(a.of, [&](Range r, float* p, const float* g) {
    float m[kBlock], v[kBlock], highest[kBlock];
    load(a.m, r, m);
    load(a.v, r, v);
    for (int64_t i = 0; i < r.n; ++i) {
      m[i] = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
      v[i] = a.beta2 * v[i] + (1.0f - a.beta2) * g[i] * g[i];
    }
    const float* w = v;
    if (a.highest.defined()) {
      load(a.highest, r, highest);
      for (int64_t i = 0; i < r.n; ++i) highest[i] = std::max(highest[i], v[i]);
      store(highest, a.highest, r, state_bits(a.of, 2));
      w = highest;
    }
    for (int64_t i = 0; i < r.n; ++i) p[i] -= step * m[i] / (std::sqrt(w[i]) / root2 + a.eps);
    store(m, a.m, r, state_bits(a.of, 0));
    store(v, a.v, r, state_bits(a.of, 1));
  });
}

void sgd(const Sgd& a) {
  sweep(a.of, [&](Range r, float* p, const float* g) {
    if (!a.buffer.defined()) {
      for (int64_t i = 0; i < r.n; ++i) p[i] -= a.of.lr * g[i];
      return;
    }
    float b[kBlock];
    load(a.buffer, r, b);
    for (int64_t i = 0; i < r.n; ++i) b[i] = a.first ? g[i] : a.momentum * b[i] + g[i];
    for (int64_t i = 0; i < r.n; ++i) p[i] -= a.of.lr * (a.nesterov ? g[i] + a.momentum * b[i] : b[i]);
    store(b, a.buffer, r, state_bits(a.of, 0));
  });
}

void lion(const Lion& a) {
  sweep(a.of, [&](Range r, float* p, const float* g) {
    float m[kBlock];
    load(a.m, r, m);
    for (int64_t i = 0; i < r.n; ++i) {
      const float c = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
      p[i] -= a.of.lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
      m[i] = a.beta2 * m[i] + (1.0f - a.beta2) * g[i];
    }
    store(m, a.m, r, state_bits(a.of, 0));
  });
}

namespace {

// Σ f(range) over fixed blocks of `n` elements, added in order: the same for every thread count.
template <class F>
double sum_blocks(int64_t n, F&& f) {
  constexpr int64_t kSums = 64;
  const int64_t span = ((n + kSums - 1) / kSums + kBlock - 1) / kBlock * kBlock;
  double sums[kSums] = {};
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t part = 0; part < kSums; ++part)
    for (int64_t at = part * span; at < std::min(n, (part + 1) * span); at += kBlock)
      sums[part] += f(Range{at, std::min({kBlock, n - at, (part + 1) * span - at})});
  double total = 0;
  for (double s : sums) total += s;
  return total;
}

double squares(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// r and c: the moving means of g² over columns and rows, and the factors 1/√ that follow from them.
void factored_moments(const Adafactor& a, float* row_factor, float* col_factor) {
  const Tensor& g = a.of.gradient;
  const int64_t rows = a.of.parameter.rows.count, cols = a.of.parameter.cols;
  auto* r = a.rows.as<float>();
  auto* c = a.cols.as<float>();
  int used = 1;
#pragma omp parallel if (rows * cols > kParallelElements)
  {
    const ThreadRange range = thread_range(rows);
    if (range.thread == 0) used = range.threads;
    float* partial = a.workspace.row<float>(range.thread);
    std::fill(partial, partial + cols, 0.0f);
    float block[kBlock];
    for (int64_t i = range.begin; i < range.end; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < cols; j += kBlock) {
        const int64_t n = std::min(kBlock, cols - j);
        load(g, {i * cols + j, n}, block);
        for (int64_t l = 0; l < n; ++l) block[l] = a.of.grad_scale * block[l] * (a.of.grad_scale * block[l]) + a.eps;
        float part = 0;
        for (int64_t l = 0; l < n; ++l) {
          partial[j + l] += block[l];
          part += block[l];
        }
        sum += part;
      }
      r[i] = a.beta * r[i] + (1 - a.beta) * static_cast<float>(sum / static_cast<double>(cols));
    }
  }
  double mean = 0;
  for (int64_t i = 0; i < rows; ++i) mean += r[i];
  mean /= static_cast<double>(rows);
  for (int64_t j = 0; j < cols; ++j) {
    float sum = 0;
    for (int t = 0; t < used; ++t) sum += a.workspace.row<float>(t)[j];
    c[j] = a.beta * c[j] + (1 - a.beta) * sum / static_cast<float>(rows);
    col_factor[j] = 1.0f / std::sqrt(c[j]);
  }
  for (int64_t i = 0; i < rows; ++i) row_factor[i] = 1.0f / std::sqrt(r[i] / static_cast<float>(mean));
}

}  // namespace

void adafactor(const Adafactor& a) {
  const int64_t n = a.of.parameter.count(), cols = a.of.parameter.cols;
  const int64_t spare = a.workspace.rows.count - 2;
  float* row_factor = a.workspace.row<float>(spare);
  float* col_factor = a.workspace.row<float>(spare + 1);
  if (!a.v.defined()) factored_moments(a, row_factor, col_factor);
  // The update in direction of the gradient, not yet clipped.
  const auto direction = [&](Range r, float* u) {
    load(a.of.gradient, r, u);
    for (int64_t i = 0; i < r.n; ++i) u[i] *= a.of.grad_scale;
    if (a.v.defined()) {
      const float* v = a.v.as<float>() + r.begin;
      for (int64_t i = 0; i < r.n; ++i) u[i] /= std::sqrt(v[i]);
      return;
    }
    for (int64_t i = 0; i < r.n;) {  // rows may begin and end inside a block
      const int64_t row = (r.begin + i) / cols, col = (r.begin + i) % cols, run = std::min(cols - col, r.n - i);
      for (int64_t l = 0; l < run; ++l) u[i + l] *= row_factor[row] * col_factor[col + l];
      i += run;
    }
  };
  if (a.v.defined()) {
    auto* v = a.v.as<float>();
    with_type(a.of.gradient.dtype, [&](auto zero) {
      const auto* g = a.of.gradient.template as<decltype(zero)>();
      for (int64_t i = 0; i < n; ++i) {
        const float x = a.of.grad_scale * to_float(g[i]);
        v[i] = a.beta * v[i] + (1 - a.beta) * (x * x + a.eps);
      }
    });
  }
  const double total = sum_blocks(n, [&](Range r) {
    float u[kBlock];
    direction(r, u);
    return squares(u, r.n);
  });
  float lr = a.of.lr;
  if (a.scale_parameter) {
    const double size = sum_blocks(n, [&](Range r) {
      float p[kBlock];
      load(a.of.parameter, r, p);
      return squares(p, r.n);
    });
    lr *= std::max(a.eps_scale, static_cast<float>(std::sqrt(size / static_cast<double>(n))));
  }
  Stepped s = a.of;
  s.lr = lr;
  const float rms = static_cast<float>(std::sqrt(total / static_cast<double>(n)));
  const float step = lr / std::max(1.0f, rms / a.clip_threshold);
  sweep(s, [&](Range r, float* p, float* u) {
    direction(r, u);
    for (int64_t i = 0; i < r.n; ++i) p[i] -= step * u[i];
  });
}

double squared_norm(const SquaredNorm& a) {
  const int64_t n = a.x.count(), blocks = (n + kSquaredNormBlock - 1) / kSquaredNormBlock;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    const T* x = a.x.as<T>();
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (int64_t b = 0; b < blocks; ++b) {
      double sum = 0;
      for (int64_t i = b * kSquaredNormBlock; i < std::min(n, (b + 1) * kSquaredNormBlock); i += 1024) {
        float part = 0;
        const int64_t end = std::min({n, (b + 1) * kSquaredNormBlock, i + 1024});
#pragma omp simd reduction(+ : part)
        for (int64_t j = i; j < end; ++j) part += to_float(x[j]) * to_float(x[j]);
        sum += part;
      }
      a.partial[b] = sum;
    }
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += a.partial[b];
  return total;
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
