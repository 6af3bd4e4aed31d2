// The decoder-only transformer that Llama, Qwen and their relatives are. One block:
//
//   h = x + O(attention(rope(QKV(norm(x)))))        y = h + Down(silu(Gate(norm(h))) · Up(norm(h)))
//
// What a family does differently is a field of DecoderConfig: norms of q and k, norms behind attention and MLP, sliding
// windows, ALiBi, soft caps.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder_config.h"
#include "nn/head.h"
#include "nn/layers.h"

namespace attune::models {

// Keys and values for decoding, of one sequence (`length` rows are valid) or of several (Stream::cached).
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
  float adapter_dropout = 0;  // of what adapters read
  float neftune_noise_alpha = 0;
  uint64_t dropout_key = 0;  // mixes seed and step
};

class Decoder {
 public:
  explicit Decoder(DecoderConfig config);

  const DecoderConfig& config() const { return config_; }
  nn::ParameterStore& parameters() { return parameters_; }
  const nn::ParameterStore& parameters() const { return parameters_; }
  nn::Head& head() { return *head_; }
  const nn::Head& head() const { return *head_; }
  std::optional<nn::Adapter>& embedding_adapter() { return embedding_adapter_; }
  nn::Parameter& embedding() { return *embedding_; }
  nn::Parameter& head_weight() { return *head_weight_; }
  nn::Linear& layer_linear(int64_t layer, const std::string& name);  // "qkv", "o", "gate_up", "down"
  const nn::Linear& layer_linear(int64_t layer, const std::string& name) const { return const_cast<Decoder*>(this)->layer_linear(layer, name); }

  // Tables for positions [0, positions); call before the first forward. Returns the bytes taken.
  uint64_t prepare(Place place, int64_t positions);
  int64_t positions() const { return positions_; }  // that tables are there for

  // Hidden states after the final norm, [N, hidden_size]. `compute` is the dtype of activations. `stream` and
  // `options` are read again in backward: they must live until it is done.
  nn::Value forward(nn::Tape& tape, const nn::Stream& stream, DType compute, const ForwardOptions& options);

  // Whether a cache of `length` tokens still stands when the sequence grows to `longer`. Where rotary frequencies follow the
  // sequence's length, all of it must run again once they change: with LongRoPE once, with dynamic scaling for every
  // token beyond max_position_embeddings.
  bool cache_keeps(int64_t length, int64_t longer) const;
  // Whether rotary frequencies follow the length of a sequence: such sequences are decoded one by one.
  bool rotates_by_length() const;

  // Memory of a KV cache, from an arena that outlives it.
  KvCache make_cache(Arena& arena, int64_t capacity, DType compute) const;
  uint64_t cache_bytes(int64_t capacity, DType compute) const;

 private:
  struct Layer {
    nn::Norm input_norm, mlp_norm;
    nn::Norm q_norm, k_norm;       // undefined weights where there is none
    nn::Norm attention_out, mlp_out;
    nn::Linear qkv, o, gate_up, down;
  };
  // Rotary frequencies of a kind of layer.
  struct Rotary {
    RopeConfig config;
    std::vector<float> frequencies, long_frequencies;
    Tensor table;  // by position; undefined where frequencies depend on the sequence's length
  };
  // What a block needs beside its input; small and copied into the tape's closure.
  struct BlockCall {
    const Layer* layer;
    int64_t index;
    const nn::Stream* stream;
    const ForwardOptions* options;
    const Tensor* rope_table;
  };

  Layer add_layer(int64_t index);
  nn::Norm add_norm(const std::string& name, int64_t size);
  const Rotary* rotary_of(int64_t layer) const;  // nullptr without rotation
  // The table by token of one stream, on the tape; undefined where there is one by position.
  const Tensor* table_of(nn::Tape& tape, const Rotary& rotary, const nn::Stream& stream, bool cached) const;
  nn::AttentionCall attention_call(const nn::Tape& tape, const BlockCall& call) const;
  nn::Value block(nn::Tape& tape, nn::Value x, const BlockCall& call) const;

  DecoderConfig config_;
  nn::ParameterStore parameters_;
  nn::Parameter* embedding_ = nullptr;
  std::optional<nn::Adapter> embedding_adapter_;
  nn::Norm final_norm_;
  nn::Parameter* head_weight_ = nullptr;
  std::vector<Layer> layers_;
  std::unique_ptr<nn::Head> head_;
  std::unique_ptr<Arena> tables_;
  int64_t positions_ = 0;
  std::vector<Rotary> rotary_;  // of all layers; where they differ, of the sliding ones behind that of the others
  std::vector<float> alibi_;    // slopes
};

}  // namespace attune::models
