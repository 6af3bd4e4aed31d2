#include "ops/cuda/kernel.h"
#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

struct Forward {
  View weight, y;
  const int32_t* ids;
  float scale;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    float x[N];
    load(weight, ids[row], col, x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= scale;
    store(x, y, row, col);
  }
};

// The tokens of a word as a chain: chain[i] is the next token with the id of token i, or n; its complement where a token before i
// has that id. One warp a token looks both ways: quickly done for a frequent word, and N²/32 comparisons in coalesced reads for
// rare ones, which at 16 000 tokens is less than a sort.
__global__ void __launch_bounds__(kThreads) link_tokens(const int32_t* ids, int32_t n, int32_t* chain) {
  const int32_t lane = threadIdx.x % kWarp;
  const int64_t token = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (token >= n) return;
  const auto i = static_cast<int32_t>(token);
  const int32_t id = ids[i];
  bool first = true;
  for (int32_t at = i - kWarp; first && at > -kWarp; at -= kWarp) {
    const int32_t j = at + lane;
    if (__ballot_sync(0xFFFFFFFFu, j >= 0 && ids[j] == id)) first = false;
  }
  int32_t next = n;
  for (int32_t at = i + 1; next == n && at < n; at += kWarp) {
    const int32_t j = at + lane;
    if (const unsigned found = __ballot_sync(0xFFFFFFFFu, j < n && ids[j] == id)) next = at + __ffs(static_cast<int>(found)) - 1;
  }
  if (lane == 0) chain[i] = first ? next : ~next;
}

struct Backward {
  View dy, dweight;
  const int32_t *ids, *chain;
  int32_t n;
  float scale;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    int32_t next = chain[row];
    if (next < 0) return;  // not the first of its word
    float sum[N];
    load(dweight, ids[row], col, sum);
    for (auto i = static_cast<int32_t>(row);;) {
      float x[N];
      load(dy, i, col, x);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += scale * x[k];
      if (next == n) break;
      i = next;
      next = ~chain[i];
    }
    store(sum, dweight, ids[row], col);
  }
};

struct Noise {
  View x;
  const int32_t* cu;
  int64_t sequences;
  const int64_t* samples;
  const int32_t* positions;
  int64_t d;
  float alpha;
  uint64_t key;
  template <int N>
  __device__ void at(int64_t row, int64_t col) const {
    if (row < cu[0] || row >= cu[sequences]) return;
    int64_t low = 0, high = sequences;  // cu[low] ≤ row < cu[high]
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (cu[middle] <= row) low = middle;
      else high = middle;
    }
    const int64_t length = cu[low + 1] - cu[low];
    const float scale = alpha / sqrtf(static_cast<float>(length * d));
    float values[N];
    load(x, row, col, values);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const PhiloxBlock words = philox(key, static_cast<uint64_t>(samples[row]),
                                       static_cast<uint64_t>(positions[row]) << 32 | static_cast<uint64_t>((col + i) / 4));
#pragma unroll
      for (int j = 0; j < 4 && i + j < N; ++j)
        values[i + j] += scale * (2.0f * uniform_float(words[static_cast<size_t>(N == 1 ? col % 4 : j)]) - 1.0f);
    }
    store(values, x, row, col);
  }
};

}  // namespace

void embedding_forward(const EmbeddingForward& a) {
  over_elements("embedding_forward", a.y.rows.count, a.y.cols, wide(a.y.cols, {a.weight, a.y}), Forward{a.weight, a.y, a.ids.as<int32_t>(), a.scale});
}

void embedding_backward(const EmbeddingBackward& a) {
  const int64_t n = a.dy.rows.count;
  const auto* ids = a.ids.as<int32_t>();
  auto* chain = a.order.as<int32_t>();
  launch("embedding_backward", {{blocks(n * kWarp, kThreads), 1, 1}, {kThreads, 1, 1}}, link_tokens, ids, static_cast<int32_t>(n), chain);
  over_elements("embedding_backward", n, a.dy.cols, wide(a.dy.cols, {a.dy, a.dweight}), Backward{a.dy, a.dweight, ids, chain, static_cast<int32_t>(n), a.scale});
}

void embedding_noise(const EmbeddingNoise& a) {
  over_elements("embedding_noise", a.x.rows.count, a.x.cols, wide(a.x.cols, {a.x}),
                Noise{a.x, a.cu_seqlens.as<int32_t>(), a.cu_seqlens.cols - 1, a.sample_ids.as<int64_t>(), a.positions.as<int32_t>(), a.x.cols, a.alpha, a.key});
}

}  // namespace attune::ops::cuda
