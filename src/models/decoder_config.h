// What a decoder is made of, in the field's terms, whatever dialect its config.json speaks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/rope.h"
#include "ops/swiglu.h"

namespace attune::models {

enum class PositionEncoding { rope, alibi };

struct DecoderConfig {
  std::string family;  // model_type: "llama", "qwen2" …
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t stored_vocab_size = 0;  // rows of embedding and head in the base's files, where the vocabulary has grown; 0: all
  int64_t max_position_embeddings = 0;
  float initializer_range = 0.02f;
  std::vector<int64_t> eos_token_ids;  // from config.json; may be empty

  // Norms
  float rms_norm_eps = 1e-6f;
  float norm_offset = 0;    // 1 where norm weights are stored centred on 0
  bool qk_norm = false;     // every head of q and k is normed, before positions
  bool post_norms = false;  // what attention and MLP return is normed too, before it is added

  // Attention
  bool qkv_bias = false, o_bias = false;
  std::string fused_qkv;      // q‖k‖v are saved as this one tensor ("W_pack"); empty: as three
  float attention_scale = 0;  // of the scores; 0: 1/√head_dim
  float attention_softcap = 0;
  float attention_dropout = 0;
  int64_t sliding_window = 0;         // tokens that the sliding layers see back, themselves included
  std::vector<bool> sliding_layers;   // one a layer; empty: none slides
  PositionEncoding positions = PositionEncoding::rope;
  RopeConfig rope;
  std::optional<RopeConfig> local_rope;  // of the sliding layers, where theirs differs

  // MLP
  bool mlp_bias = false;
  bool fused_gate_up = false;  // gate‖up are saved as one tensor "gate_up_proj"
  ops::GateActivation activation = ops::GateActivation::silu;

  // Embedding and head
  float embedding_scale = 1;
  bool tie_word_embeddings = false;
  bool head_from_embedding = false;  // tied in the files, held apart because one of the two is to change (models/adapter.h)
  bool norm_head = false;  // logits over rows of length 1 (Baichuan 2)
  float logit_softcap = 0;
  float z_loss_weight = 0;
  // > 0: instead of words the head scores whole sequences (transformers' …ForSequenceClassification): a reward, classes.
  int64_t num_labels = 0;
  bool score_is_new = false;  // the base's files are a language model's: the score begins at random

  bool slides(int64_t layer) const { return !sliding_layers.empty() && sliding_layers[static_cast<size_t>(layer)]; }
};

}  // namespace attune::models
