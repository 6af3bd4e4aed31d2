#include "models/rope.h"

#include <algorithm>
#include <cmath>

namespace attune::models {
namespace {

double powered(const RopeConfig& rope, int64_t i, int64_t d) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
  return std::pow(static_cast<float>(rope.theta), exponent);
}

// Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1 release).
float llama3(const RopeConfig& rope, float f) {
  const double wavelength = 2.0 * M_PI / f, context = rope.original_max_position_embeddings;
  if (wavelength > context / rope.low_freq_factor) return static_cast<float>(f / rope.factor);
  if (wavelength < context / rope.high_freq_factor) return f;
  const double smooth = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1 - smooth) * f / rope.factor + smooth * f);
}

// Peng et al. 2023: pairs that turn more than beta_fast times within the original context keep their frequency, those
// below beta_slow are stretched by `factor`, those between blended.
float yarn(const RopeConfig& rope, int64_t i, int64_t d) {
  const auto pair_that_turns = [&](double times) {
    return static_cast<double>(d) * std::log(rope.original_max_position_embeddings / (times * 2 * M_PI)) / (2 * std::log(rope.theta));
  };
  double low = pair_that_turns(rope.beta_fast), high = pair_that_turns(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, static_cast<double>(d - 1));
  if (low == high) high += 0.001;
  const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  const double p = powered(rope, i, d);
  return static_cast<float>(stretched / (rope.factor * p) + (1 - stretched) / p);
}

std::vector<float> divided(const RopeConfig& rope, int64_t d, const std::vector<double>& factors) {
  std::vector<float> out;
  for (int64_t i = 0; i < d / 2; ++i) out.push_back(static_cast<float>(1 / (factors[static_cast<size_t>(i)] * powered(rope, i, d))));
  return out;
}

}  // namespace

int64_t RopeConfig::rotary_dim(int64_t head_dim) const {
  return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim) {
  using Type = RopeConfig::Type;
  const int64_t d = rope.rotary_dim(head_dim);
  if (rope.type == Type::longrope) return divided(rope, d, rope.short_factor);
  std::vector<float> out;
  for (int64_t i = 0; i < d / 2; ++i) {
    float f = static_cast<float>(1.0 / powered(rope, i, d));
    if (rope.type == Type::linear) f = static_cast<float>(f / rope.factor);
    if (rope.type == Type::llama3) f = llama3(rope, f);
    if (rope.type == Type::yarn) f = yarn(rope, i, d);
    out.push_back(f);
  }
  return out;
}

std::vector<float> rope_long_frequencies(const RopeConfig& rope, int64_t head_dim) {
  if (rope.type != RopeConfig::Type::longrope) return {};
  return divided(rope, rope.rotary_dim(head_dim), rope.long_factor);
}

std::vector<float> alibi_slopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> out;
  for (int64_t i = 1; i <= power; ++i) out.push_back(static_cast<float>(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(power))));
  for (int64_t i = 0; i < heads - power; ++i)
    out.push_back(static_cast<float>(std::exp2(-8.0 * static_cast<double>(2 * i + 1) / static_cast<double>(2 * power))));
  return out;
}

}  // namespace attune::models
