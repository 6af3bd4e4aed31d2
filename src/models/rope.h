// Where a token stands: rotary frequencies with the scalings people use, and ALiBi slopes.
#pragma once

#include <cstdint>
#include <vector>

namespace attune::models {

struct RopeConfig {
  enum class Type { standard, linear, dynamic, yarn, longrope, llama3 } type = Type::standard;
  double theta = 10000;
  double factor = 1;
  double partial_rotary_factor = 1;  // the share of each head that turns
  double original_max_position_embeddings = 8192;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: its range ends on whole dimensions
  std::vector<double> short_factor, long_factor;     // longrope
  double attention_factor = 1;                       // yarn, longrope: cosines and sines are multiplied with it

  // Dimensions of a head that turn.
  int64_t rotary_dim(int64_t head_dim) const;
  // Whether frequencies depend on how long a sequence is.
  bool by_length() const { return type == Type::dynamic || type == Type::longrope; }
};

// One per pair of dimensions, in fp32 as transformers computes them: 1/θ^(2i/d) with the scaling. For dynamic and
// longrope those of sequences up to original_max_position_embeddings.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim);

// longrope beyond original_max_position_embeddings; empty for every other type.
std::vector<float> rope_long_frequencies(const RopeConfig& rope, int64_t head_dim);

// One per head (Press et al. 2022): powers of 2^(−8/p) for p = the largest power of two up to `heads`; heads beyond p
// take every second slope of 2p.
std::vector<float> alibi_slopes(int64_t heads);

}  // namespace attune::models
