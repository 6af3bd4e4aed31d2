// What a decoder is made of, in the field's terms, whatever dialect its config.json speaks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune::models {

struct RopeConfig {
  double theta = 10000;
  enum class Type { standard, llama3 } type = Type::standard;
  // llama3 scaling
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4, original_max_position_embeddings = 8192;
};

struct DecoderConfig {
  std::string family;  // "llama", "qwen2"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool tie_word_embeddings = false;
  float attention_dropout = 0;
  float initializer_range = 0.02f;
  RopeConfig rope;
  std::vector<int64_t> eos_token_ids;  // from config.json; may be empty
};

// 1/θ^(2i/d) with the family's scaling, one per pair of dimensions, in fp32 as transformers computes them.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace attune::models
