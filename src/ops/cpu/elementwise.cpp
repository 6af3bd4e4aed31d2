#include "ops/cpu/lanes.h"
#include "util/rng.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void add(const Add& a) {
  const int64_t n = a.a.rows.count, d = a.a.cols;
  with_type(a.a.dtype, [&](auto a0) {
    using A = decltype(a0);
    with_type(a.b.dtype, [&](auto b0) {
      using B = decltype(b0);
      with_type(a.out.dtype, [&](auto o0) {
        using O = decltype(o0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
        for (int64_t i = 0; i < n; ++i) {
          const A* x = a.a.row<A>(i);
          const B* y = a.b.row<B>(i);
          O* out = a.out.row<O>(i);
          over(d, [&](int64_t j, auto part) { part.store(part.load(x + j) + part.load(y + j), out + j); });
        }
      });
    });
  });
}

void add_bias(const AddBias& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    with_type(a.bias.dtype, [&](auto b0) {
      using B = decltype(b0);
      const B* bias = a.bias.as<B>();
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        T* x = a.x.row<T>(i);
        over(d, [&](int64_t j, auto part) { part.store(part.load(x + j) + part.load(bias + j), x + j); });
      }
    });
  });
}

void sum_rows(const SumRows& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols;
  int used = 1;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel if (n * d > kParallelElements)
    {
      const ThreadRange range = thread_range(n);
      if (range.thread == 0) used = range.threads;
      float* partial = a.partial.row<float>(range.thread);
      std::fill(partial, partial + d, 0.0f);
      for (int64_t i = range.begin; i < range.end; ++i) {
        const T* x = a.x.row<T>(i);
        over(d, [&](int64_t j, auto part) { part.store(part.load(partial + j) + part.load(x + j), partial + j); });
      }
    }
  });
  with_type(a.out.dtype, [&](auto o0) {
    using O = decltype(o0);
    O* out = a.out.as<O>();
    for (int64_t j = 0; j < d; ++j) {
      float sum = a.accumulate ? to_float(out[j]) : 0.0f;
      for (int t = 0; t < used; ++t) sum += a.partial.row<float>(t)[j];
      out[j] = from_float<O>(sum);
    }
  });
}

void scale(const Scale& a) {
  const int64_t n = a.from.rows.count, d = a.from.cols;
  with_type(a.from.dtype, [&](auto f0) {
    using F = decltype(f0);
    with_type(a.to.dtype, [&](auto t0) {
      using T = decltype(t0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements && n > 1)
      for (int64_t i = 0; i < n; ++i) {
        const F* x = a.from.row<F>(i);
        T* y = a.to.row<T>(i);
        if (a.accumulate) over(d, [&](int64_t j, auto part) { part.store(part.load(y + j) + a.scale * part.load(x + j), y + j); });
        else over(d, [&](int64_t j, auto part) { part.store(a.scale * part.load(x + j), y + j); });
      }
    });
  });
}

void fill_zero(const Tensor& x) {
  const int64_t n = x.rows.count;
  const size_t bytes = static_cast<size_t>(x.cols) * size_of(x.dtype);
  auto* base = static_cast<char*>(x.data);
  const size_t stride = static_cast<size_t>(x.stride) * size_of(x.dtype);
#pragma omp parallel for schedule(static) if (x.count() > kParallelElements && n > 1)
  for (int64_t i = 0; i < n; ++i) std::memset(base + static_cast<size_t>(i) * stride, 0, bytes);
}

void gather_rows(const GatherRows& a) {
  const auto* rows = a.rows.as<int32_t>();
  const size_t size = size_of(a.x.dtype), bytes = static_cast<size_t>(a.x.cols) * size;
  for (int64_t i = 0; i < a.out.rows.count; ++i)
    std::memcpy(static_cast<char*>(a.out.data) + static_cast<size_t>(i * a.out.stride) * size,
                static_cast<const char*>(a.x.data) + static_cast<size_t>(rows[i] * a.x.stride) * size, bytes);
}

void scatter_rows(const ScatterRows& a) {
  const auto* rows = a.rows.as<int32_t>();
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (a.x.count() > kParallelElements)
    for (int64_t i = 0; i < a.x.rows.count; ++i) {
      const T* x = a.x.row<T>(i);
      T* out = a.out.row<T>(rows[i]);
      if (a.accumulate) {
        over(a.x.cols, [&](int64_t j, auto part) { part.store(part.load(out + j) + part.load(x + j), out + j); });
      } else {
        std::memcpy(out, x, static_cast<size_t>(a.x.cols) * sizeof(T));
      }
    }
  });
}

void dropout(const Dropout& a) {
  const int64_t n = a.x.rows.count, d = a.x.cols;
  const auto* samples = a.sample_ids.as<int64_t>();
  const auto* positions = a.positions.as<int32_t>();
  const float keep_scale = 1.0f / (1.0f - a.p);
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
    for (int64_t i = 0; i < n; ++i) {
      const T* x = a.x.row<T>(i);
      T* y = a.y.row<T>(i);
      for (int64_t j = 0; j < d; j += 4) {
        const PhiloxBlock r = philox(a.key, static_cast<uint64_t>(samples[i]),
                                     (static_cast<uint64_t>(positions[i]) << 32) | static_cast<uint64_t>(j / 4));
        for (int64_t l = j; l < std::min(j + 4, d); ++l)
          y[l] = from_float<T>(uniform_float(r[static_cast<size_t>(l - j)]) >= a.p ? to_float(x[l]) * keep_scale : 0.0f);
      }
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
