// The decoder-only transformer that Llama, Qwen2 and their relatives are. One block:
//
//   h = x + O(attention(rope(QKV(norm(x)))))        y = h + Down(silu(Gate(norm(h))) · Up(norm(h)))
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/decoder_config.h"
#include "nn/head.h"
#include "nn/layers.h"

namespace attune::models {

// Keys and values of one sequence, for decoding.
struct KvCache {
  std::vector<nn::KvCacheLayer> layers;
  int64_t length = 0;
  int64_t capacity = 0;
};

struct ForwardOptions {
  KvCache* cache = nullptr;
  // Dropout is a function of (seed, step, site, sample, position, channel); 0 outside of training.
  float attention_dropout = 0;
  float hidden_dropout = 0;
  float embedding_dropout = 0;
  float neftune_noise_alpha = 0;
  uint64_t dropout_key = 0;  // mixes seed and step
};

class Decoder {
 public:
  explicit Decoder(DecoderConfig config);

  const DecoderConfig& config() const { return config_; }
  nn::ParameterStore& parameters() { return parameters_; }
  const nn::ParameterStore& parameters() const { return parameters_; }
  const nn::Head& head() const { return *head_; }
  nn::Parameter& embedding() { return *embedding_; }
  nn::Parameter& head_weight() { return *head_weight_; }
  nn::Linear& layer_linear(int64_t layer, const std::string& name);  // "qkv", "o", "gate_up", "down"

  // Tables for positions [0, positions); call before the first forward. Returns the bytes taken.
  uint64_t prepare(Arena::Kind kind, int64_t positions);

  // Hidden states after the final norm, [N, hidden_size]. `compute` is the dtype of activations. `stream` and
  // `options` are read again in backward: they must live until it is done.
  nn::Value forward(nn::Tape& tape, const nn::Stream& stream, DType compute, const ForwardOptions& options);

  // Memory of a KV cache, from an arena that outlives it.
  KvCache make_cache(Arena& arena, int64_t capacity, DType compute) const;

 private:
  struct Layer {
    nn::Parameter *input_norm, *post_attention_norm;
    nn::Linear qkv, o, gate_up, down;
  };

  Layer add_layer(int64_t index);
  nn::Value block(nn::Tape& tape, const Layer& layer, int64_t index, nn::Value x, const nn::Stream& stream,
                  const ForwardOptions& options) const;

  DecoderConfig config_;
  nn::ParameterStore parameters_;
  nn::Parameter* embedding_ = nullptr;
  nn::Parameter* final_norm_ = nullptr;
  nn::Parameter* head_weight_ = nullptr;
  std::vector<Layer> layers_;
  std::unique_ptr<nn::Head> head_;
  std::unique_ptr<Arena> tables_;
  Tensor rope_table_;
};

}  // namespace attune::models
