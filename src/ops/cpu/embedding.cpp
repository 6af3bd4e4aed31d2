#include "ops/cpu/lanes.h"
#include "util/rng.h"

namespace attune::ops::cpu::ATTUNE_ISA {

void embedding_forward(const EmbeddingForward& a) {
  const auto* ids = a.ids.as<int32_t>();
  const int64_t n = a.y.rows.count, d = a.y.cols;
  with_type(a.weight.dtype, [&](auto w) {
    using W = decltype(w);
    with_type(a.y.dtype, [&](auto y) {
      using Y = decltype(y);
#pragma omp parallel for schedule(static) if (n * d > kParallelElements)
      for (int64_t i = 0; i < n; ++i) {
        const W* from = a.weight.row<W>(ids[i]);
        Y* to = a.y.row<Y>(i);
        over(d, [&](int64_t j, auto part) { part.store(a.scale * part.load(from + j), to + j); });
      }
    });
  });
}

void embedding_backward(const EmbeddingBackward& a) {
  const auto* ids = a.ids.as<int32_t>();
  auto* order = a.order.as<int32_t>();
  const int64_t n = a.dy.rows.count, d = a.dy.cols;
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
  // By id, then by place: one thread owns a row of the table and adds its tokens in order.
  std::sort(order, order + n, [ids](int32_t x, int32_t y) { return ids[x] != ids[y] ? ids[x] < ids[y] : x < y; });
  with_type(a.dy.dtype, [&](auto dy) {
    using D = decltype(dy);
    with_type(a.dweight.dtype, [&](auto g) {
      using G = decltype(g);
#pragma omp parallel if (n * d > kParallelElements)
      {
        const ThreadRange range = thread_range(n);
        int64_t i = range.begin;
        while (i > 0 && i < range.end && ids[order[i]] == ids[order[i - 1]]) ++i;  // belongs to the thread before
        while (i < range.end) {
          int64_t end = i + 1;
          while (end < n && ids[order[end]] == ids[order[i]]) ++end;
          G* out = a.dweight.row<G>(ids[order[i]]);
          over(d, [&](int64_t c, auto part) {
            Floats sum = part.load(out + c);
            for (int64_t t = i; t < end; ++t) sum += a.scale * part.load(a.dy.row<D>(order[t]) + c);
            part.store(sum, out + c);
          });
          i = end;
        }
      }
    });
  });
}

void embedding_noise(const EmbeddingNoise& a) {
  const auto* samples = a.sample_ids.as<int64_t>();
  const auto* positions = a.positions.as<int32_t>();
  const auto* cu = a.cu_seqlens.as<int32_t>();
  const int64_t d = a.x.cols;
  with_type(a.x.dtype, [&](auto x0) {
    using T = decltype(x0);
    for (int64_t s = 0; s + 1 < a.cu_seqlens.cols; ++s) {
      const int64_t length = cu[s + 1] - cu[s];
      const float scale = a.alpha / std::sqrt(static_cast<float>(length * d));
#pragma omp parallel for schedule(static) if (length * d > kParallelElements)
      for (int64_t i = cu[s]; i < cu[s + 1]; ++i) {
        T* x = a.x.row<T>(i);
        for (int64_t j = 0; j < d; j += 4) {
          const PhiloxBlock r = philox(a.key, static_cast<uint64_t>(samples[i]),
                                       (static_cast<uint64_t>(positions[i]) << 32) | static_cast<uint64_t>(j / 4));
          for (int64_t l = j; l < std::min(j + 4, d); ++l)
            x[l] = from_float<T>(to_float(x[l]) + scale * (2.0f * uniform_float(r[static_cast<size_t>(l - j)]) - 1.0f));
        }
      }
    }
  });
}

}  // namespace attune::ops::cpu::ATTUNE_ISA
