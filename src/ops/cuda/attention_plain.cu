#include "ops/cuda/attention.h"

// With fp32 arithmetic. A block has 32 rows of its own, each with 8 neighbouring threads: thread c of a row makes its scores with the
// other side's rows c, c + 8, …, and of sums over these the columns c, c + 8, ….
namespace attune::ops::cuda {
namespace {

constexpr int kOwn = 32, kLanes = 8;

// Rows of the other side that are met at once: shared memory holds two tiles of each side.
template <int kDim>
constexpr int kOther = kDim > 128 ? 8 : 32;

// rows [first, first + kRows) of a head, zero beyond `end`; rows of the tile are `stride` apart.
template <int kRows>
__device__ void load_tile(const View& t, int64_t row0, int64_t first, int64_t end, int64_t column, int64_t d, int64_t stride, float* tile) {
  for (int64_t e = threadIdx.x; e < kRows * d; e += kThreads) {
    const int64_t r = e / d, c = e % d;
    tile[r * stride + c] = first + r < end ? element(t, row0 + first + r, column + c) : 0.0f;
  }
}

__device__ float dot(const float* a, const float* b, int64_t d) {
  float sum = 0;
  for (int64_t c = 0; c < d; ++c) sum += a[c] * b[c];
  return sum;
}

template <class T, class Merge>
__device__ T row_reduce(T x, Merge merge) {
#pragma unroll
  for (int other = kLanes / 2; other > 0; other /= 2) x = merge(x, __shfl_xor_sync(0xFFFFFFFFu, x, other));
  return x;
}

// sum[x] += Σ_n weight[n]·tile[n, c + 8x]
template <int kDim>
__device__ void weigh(float (&sum)[kDim / kLanes], const float* weight, const float* tile, int n, int c, int64_t d, int64_t stride) {
  for (int r = 0; r < n; ++r) {
    const float w = weight[r];
#pragma unroll
    for (int x = 0; x < kDim / kLanes; ++x)
      if (c + kLanes * x < d) sum[x] += w * tile[r * stride + c + kLanes * x];
  }
}

template <int kDim>
__device__ void store_row(const float (&sum)[kDim / kLanes], float factor, const View& t, int64_t row, int64_t column, int c, int64_t d) {
#pragma unroll
  for (int x = 0; x < kDim / kLanes; ++x)
    if (c + kLanes * x < d) put(sum[x] * factor, t, row, column + c + kLanes * x);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) forward(AttentionTask a) {
  constexpr int kN = kOther<kDim>, kEach = kN / kLanes;
  const Spot s = find_spot(a, a.cu_q, kOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t head = blockIdx.y, kv = head / a.group(), stride = a.d + 1;
  const int r = static_cast<int>(threadIdx.x) / kLanes, c = static_cast<int>(threadIdx.x) % kLanes;
  float* q = shared_memory<float>();
  float* k = q + kOwn * stride;
  float* v = k + kN * stride;
  float* p = v + kN * stride + r * (kN + 1);
  load_tile<kOwn>(a.q, s.q0, s.first, s.lq, head * a.d, a.d, stride, q);
  const int64_t i = s.first + r;
  const Range keys = keys_of(a, s, s.first, kOwn);
  float out[kDim / kLanes] = {}, highest = -INFINITY, sum = 0;
  for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kN) {
    __syncthreads();
    load_tile<kN>(a.k, s.k0, j0, s.lk, kv * a.d, a.d, stride, k);
    load_tile<kN>(a.v, s.k0, j0, s.lk, kv * a.d, a.d, stride, v);
    __syncthreads();
    float score[kEach], higher = highest;
    for (int e = 0; e < kEach; ++e) {
      const int n = c + kLanes * e;
      float slope;
      score[e] = sees(a, s, i, j0 + n) ? finish_score(a, s, head, i, j0 + n, dot(q + r * stride, k + n * stride, a.d), slope) : -INFINITY;
      higher = fmaxf(higher, score[e]);
    }
    higher = row_reduce(higher, Highest{});
    const float base = higher == -INFINITY ? 0.0f : higher, shrink = expf(highest - base);
    float part = 0;
    for (int e = 0; e < kEach; ++e) {
      const int n = c + kLanes * e;
      float weight = expf(score[e] - base);
      part += weight;
      if (a.dropout > 0 && weight > 0) weight *= kept(a, s.q0 + i, head, j0 + n);
      p[n] = weight;
    }
    sum = sum * shrink + row_reduce(part, Sum{});
    highest = higher;
    __syncwarp();
    for (float& x : out) x *= shrink;
    weigh<kDim>(out, p, v, kN, c, a.d, stride);
    __syncwarp();
  }
  if (i >= s.lq) return;
  store_row<kDim>(out, sum > 0 ? 1.0f / sum : 0.0f, a.out, s.q0 + i, head * a.d, c, a.d);
  if (c == 0) put(sum > 0 ? highest + logf(sum) : -INFINITY, a.lse, s.q0 + i, head);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) queries(AttentionTask a) {
  constexpr int kN = kOther<kDim>, kEach = kN / kLanes;
  const Spot s = find_spot(a, a.cu_q, kOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t head = blockIdx.y, kv = head / a.group(), stride = a.d + 1;
  const int r = static_cast<int>(threadIdx.x) / kLanes, c = static_cast<int>(threadIdx.x) % kLanes;
  float* q = shared_memory<float>();
  float* dout = q + kOwn * stride;
  float* k = dout + kOwn * stride;
  float* v = k + kN * stride;
  float* ds = v + kN * stride + r * (kN + 1);
  load_tile<kOwn>(a.q, s.q0, s.first, s.lq, head * a.d, a.d, stride, q);
  load_tile<kOwn>(a.dout, s.q0, s.first, s.lq, head * a.d, a.d, stride, dout);
  const int64_t i = s.first + r;
  const float lse = i < s.lq ? element(a.lse, s.q0 + i, head) : 0.0f;
  const Range keys = keys_of(a, s, s.first, kOwn);
  float dq[kDim / kLanes] = {}, delta = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kN) {
      __syncthreads();
      load_tile<kN>(a.k, s.k0, j0, s.lk, kv * a.d, a.d, stride, k);
      load_tile<kN>(a.v, s.k0, j0, s.lk, kv * a.d, a.d, stride, v);
      __syncthreads();
      for (int e = 0; e < kEach; ++e) {
        const int n = c + kLanes * e;
        const int64_t j = j0 + n;
        float value = 0;
        if (sees(a, s, i, j)) {
          float slope, dp = dot(dout + r * stride, v + n * stride, a.d);
          const float p = expf(finish_score(a, s, head, i, j, dot(q + r * stride, k + n * stride, a.d), slope) - lse);
          if (a.dropout > 0) dp *= kept(a, s.q0 + i, head, j);
          if (pass == 0) delta += p * dp;
          value = p * (dp - delta) * a.scale * slope;
        }
        ds[n] = value;
      }
      if (pass == 0) continue;
      __syncwarp();
      weigh<kDim>(dq, ds, k, kN, c, a.d, stride);
      __syncwarp();
    }
    if (pass == 0) delta = row_reduce(delta, Sum{});
  }
  if (i >= s.lq) return;
  store_row<kDim>(dq, 1, a.dq, s.q0 + i, head * a.d, c, a.d);
  if (c == 0) a.delta[(s.q0 + i) * a.heads + head] = delta;
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) keys(AttentionTask a) {
  constexpr int kN = kOther<kDim>, kEach = kN / kLanes;
  const Spot s = find_spot(a, a.cu_k, kOwn, static_cast<int32_t>(blockIdx.x));
  if (!s.there) return;
  const int64_t kv = blockIdx.y, stride = a.d + 1;
  const int r = static_cast<int>(threadIdx.x) / kLanes, c = static_cast<int>(threadIdx.x) % kLanes;
  float* k = shared_memory<float>();
  float* v = k + kOwn * stride;
  float* q = v + kOwn * stride;
  float* dout = q + kN * stride;
  float* p = dout + kN * stride + r * (kN + 1);
  float* ds = p + kOwn * (kN + 1);
  load_tile<kOwn>(a.k, s.k0, s.first, s.lk, kv * a.d, a.d, stride, k);
  load_tile<kOwn>(a.v, s.k0, s.first, s.lk, kv * a.d, a.d, stride, v);
  const int64_t j = s.first + r;
  const Range rows = queries_of(a, s, s.first, kOwn);
  float dk[kDim / kLanes] = {}, dv[kDim / kLanes] = {};
  for (int64_t head = kv * a.group(); head < (kv + 1) * a.group(); ++head)
    for (int64_t i0 = rows.begin; i0 < rows.end; i0 += kN) {
      __syncthreads();
      load_tile<kN>(a.q, s.q0, i0, s.lq, head * a.d, a.d, stride, q);
      load_tile<kN>(a.dout, s.q0, i0, s.lq, head * a.d, a.d, stride, dout);
      __syncthreads();
      for (int e = 0; e < kEach; ++e) {
        const int n = c + kLanes * e;
        const int64_t i = i0 + n;
        float weight = 0, value = 0;
        if (sees(a, s, i, j)) {
          float slope, dp = dot(v + r * stride, dout + n * stride, a.d), mask = 1;
          const float score = finish_score(a, s, head, i, j, dot(k + r * stride, q + n * stride, a.d), slope);
          const float probability = expf(score - element(a.lse, s.q0 + i, head));
          if (a.dropout > 0) mask = kept(a, s.q0 + i, head, j);
          weight = probability * mask;
          value = probability * (dp * mask - a.delta[(s.q0 + i) * a.heads + head]) * a.scale * slope;
        }
        p[n] = weight;
        ds[n] = value;
      }
      __syncwarp();
      weigh<kDim>(dv, p, dout, kN, c, a.d, stride);
      weigh<kDim>(dk, ds, q, kN, c, a.d, stride);
      __syncwarp();
    }
  if (j >= s.lk) return;
  store_row<kDim>(dk, 1, a.dk, s.k0 + j, kv * a.d, c, a.d);
  store_row<kDim>(dv, 1, a.dv, s.k0 + j, kv * a.d, c, a.d);
}

// f(kDim) for the least kDim that holds a head.
template <class F>
void with_dim(int64_t d, F&& f) {
  if (d <= 64) f(std::integral_constant<int, 64>{});
  else if (d <= 128) f(std::integral_constant<int, 128>{});
  else f(std::integral_constant<int, 256>{});
}

template <int kDim>
size_t shared_bytes(int64_t d, int own_tiles, int weights) {
  constexpr int kN = kOther<kDim>;
  return static_cast<size_t>((own_tiles * kOwn + 2 * kN) * (d + 1) + weights * kOwn * (kN + 1)) * sizeof(float);
}

}  // namespace

void attention_plain_forward(const AttentionTask& a) {
  with_dim(a.d, [&](auto dim) {
    launch("attention_forward", {{spots(a.rows_q, a.sequences, kOwn), static_cast<unsigned>(a.heads), 1}, {kThreads, 1, 1}, shared_bytes<dim.value>(a.d, 1, 1)},
           forward<dim.value>, a);
  });
}

void attention_plain_queries(const AttentionTask& a) {
  with_dim(a.d, [&](auto dim) {
    launch("attention_backward", {{spots(a.rows_q, a.sequences, kOwn), static_cast<unsigned>(a.heads), 1}, {kThreads, 1, 1}, shared_bytes<dim.value>(a.d, 2, 1)},
           queries<dim.value>, a);
  });
}

void attention_plain_keys(const AttentionTask& a) {
  with_dim(a.d, [&](auto dim) {
    launch("attention_backward", {{spots(a.rows_k, a.sequences, kOwn), static_cast<unsigned>(a.kv_heads), 1}, {kThreads, 1, 1}, shared_bytes<dim.value>(a.d, 2, 2)},
           keys<dim.value>, a);
  });
}

}  // namespace attune::ops::cuda
