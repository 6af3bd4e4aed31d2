#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"
#include "ops/cuda/sweep.h"
#include "ops/optimizer_blockwise.h"

// A warp takes a block of 256 elements: lane l those at l, l + 32, …
namespace attune::ops::cuda {
namespace {

constexpr int kOfLane = static_cast<int>(kStateBlock) / kWarp;
constexpr float kLeastMagnitude = 0x1.0p-23f;  // below every border of the maps
constexpr float kLeastNormal = 1.17549435e-38f;

// 8-bit states of one tensor, and the map of its codes.
struct State {
  uint8_t* codes;
  float* scales;
  const DynamicMap* map;

  __device__ void decode(int64_t block, int64_t count, float (&x)[kOfLane]) const {
    const float scale = scales[block];
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) {
      const int64_t i = block * kStateBlock + k * kWarp + lane();
      x[k] = i < count ? map->values[codes[i]] * scale : 0.0f;
    }
  }

  // What is beyond the end of the tensor must be 0.
  template <bool kSigned>
  __device__ void encode(int64_t block, int64_t count, const float (&x)[kOfLane]) const {
    float largest = 0;
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) {
      const float magnitude = fabsf(x[k]);
      if (magnitude > largest) largest = magnitude;  // NaN does not count
    }
    largest = warp_reduce(largest, Highest{});
    const bool usable = largest >= kLeastNormal;
    const float inverse = usable ? 1.0f / largest : 0.0f;
    if (lane() == 0) scales[block] = usable ? largest : 0.0f;
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) {
      const int64_t i = block * kStateBlock + k * kWarp + lane();
      if (i < count) codes[i] = code_of<kSigned>(x[k], inverse);
    }
  }

 private:
  template <bool kSigned>
  __device__ uint8_t code_of(float x, float inverse) const {
    const float y = fabsf(x) * inverse, above = y > kLeastMagnitude ? y : kLeastMagnitude;
    const auto bits = std::bit_cast<uint32_t>(above < 1.0f ? above : 1.0f);
    const uint32_t cell = map->cells[(bits >> 16) - DynamicMap::kFirstCell];
    const uint32_t k = (cell >> 16) + ((bits & 0xFFFFu) > (cell & 0xFFFFu) ? 1u : 0u);
    if constexpr (!kSigned) return static_cast<uint8_t>(k);
    const uint32_t most = k < 127 ? k : 127, below = most > 1 ? most : 1;  // a negative number never becomes 0
    return static_cast<uint8_t>(std::bit_cast<uint32_t>(x) >> 31 ? 127 - below : 127 + k);
  }
};

__global__ void __launch_bounds__(kThreads) adam_blocks(Step of, int64_t count, State m, State v, float step, float unbiased, float beta1, float beta2, float eps) {
  const int64_t block = warp_row();
  if (block * kStateBlock >= count) return;
  float first[kOfLane], second[kOfLane];
  m.decode(block, count, first);
  v.decode(block, count, second);
#pragma unroll
  for (int k = 0; k < kOfLane; ++k) {
    const int64_t i = block * kStateBlock + k * kWarp + lane();
    if (i >= count) continue;
    float p[1], g[1];
    of.begin(i, p, g);
    first[k] = beta1 * first[k] + (1.0f - beta1) * g[0];
    second[k] = beta2 * second[k] + (1.0f - beta2) * g[0] * g[0];
    p[0] = p[0] - step * first[k] / (sqrtf(second[k]) * unbiased + eps);
    of.end(i, p);
  }
  m.encode<true>(block, count, first);
  v.encode<false>(block, count, second);
}

__global__ void __launch_bounds__(kThreads) lion_blocks(Step of, int64_t count, State m, float beta1, float beta2) {
  const int64_t block = warp_row();
  if (block * kStateBlock >= count) return;
  float first[kOfLane];
  m.decode(block, count, first);
#pragma unroll
  for (int k = 0; k < kOfLane; ++k) {
    const int64_t i = block * kStateBlock + k * kWarp + lane();
    if (i >= count) continue;
    float p[1], g[1];
    of.begin(i, p, g);
    const float c = beta1 * first[k] + (1.0f - beta1) * g[0];
    p[0] -= of.lr * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
    first[k] = beta2 * first[k] + (1.0f - beta2) * g[0];
    of.end(i, p);
  }
  m.encode<true>(block, count, first);
}

State state_of(const State8bit& s, const DynamicMap& map) { return {s.codes.as<uint8_t>(), s.scales.as<float>(), &map}; }

}  // namespace

void adam_8bit(const Adam8bit& a) {
  const int64_t count = a.of.parameter.count();
  const Tables* tables = device().tables();
  launch("adam_8bit", warp_rows(state_blocks(count)), adam_blocks, a.of, count, state_of(a.m, tables->with_sign), state_of(a.v, tables->unsigned_),
         a.of.lr / a.correction1, 1.0f / sqrtf(a.correction2), a.beta1, a.beta2, a.eps);
}

void lion_8bit(const Lion8bit& a) {
  const int64_t count = a.of.parameter.count();
  launch("lion_8bit", warp_rows(state_blocks(count)), lion_blocks, a.of, count, state_of(a.m, device().tables()->with_sign), a.beta1, a.beta2);
}

}  // namespace attune::ops::cuda
