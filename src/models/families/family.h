// One small file per model family: its config.json keys and what it does differently.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "models/decoder_config.h"
#include "util/json.h"

namespace attune::models {

// Reads a config.json of any supported family. `where` names the file in messages. An unsupported family is refused
// by name, with the list of those supported; so is a feature of a supported family that would change results.
DecoderConfig parse_config(const Json& config, const std::string& where);

// Turns the architecture of a language model into one that scores sequences with `labels` numbers each.
void score_sequences(DecoderConfig& architecture, int64_t labels);
// The config.json of such a model, as transformers' AutoModelForSequenceClassification reads it. `pad_token`: by which it
// tells the end of padded sequences, where `base` names none; below 0: there is none.
Json scoring_config(const Json& base, int64_t labels, int64_t pad_token);

const std::vector<std::string>& supported_families();

namespace families {

// What a family takes where its config.json is silent (as transformers does), and which of the optional keys it has.
struct Defaults {
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  double rope_theta = 10000;
  double local_rope_theta = 0;  // of sliding layers; 0: theirs is that of the others
  ops::GateActivation activation = ops::GateActivation::silu;
  bool partial_rotary = false;
  bool rotary = true;
};

// Keys that the Llama lineage shares, in the old (rope_theta, rope_scaling, torch_dtype) and the new dialect
// (rope_parameters, dtype) of transformers.
DecoderConfig common(const Json& config, const std::string& where, const Defaults& defaults = {});

struct RopeContext {
  int64_t head_dim;
  double max_positions, original_max_positions;  // the second from the top level of config.json; 0 where it is not there
  double theta, local_theta, partial_rotary_factor;
};
void read_rope(DecoderConfig& c, const Json& config, const RopeContext& context, const std::string& where);

DecoderConfig baichuan(const Json& config, const std::string& where);
DecoderConfig gemma(const Json& config, const std::string& where);
DecoderConfig gemma2(const Json& config, const std::string& where);
DecoderConfig gemma3(const Json& config, const std::string& where);
DecoderConfig llama(const Json& config, const std::string& where);
DecoderConfig mistral(const Json& config, const std::string& where);
DecoderConfig phi3(const Json& config, const std::string& where);
DecoderConfig qwen2(const Json& config, const std::string& where);
DecoderConfig qwen3(const Json& config, const std::string& where);

// Sets which layers slide: by layer_types where the file has it, otherwise as `slides(layer)` says. `window` 0: none may.
void read_layer_types(DecoderConfig& c, const Json& config, int64_t window, bool (*slides)(const Json&, int64_t), const std::string& where);
// sliding_window: null is 0, and a window must hold at least one token.
int64_t window_or(const Json& config, int64_t fallback, const std::string& where);

// Refuses the file where one of the keys is missing: there is no default worth guessing.
void require_keys(const Json& config, const std::vector<std::string>& keys, const std::string& where);

// Typed access with messages that name file and key.
bool present(const Json& config, const std::string& key);
int64_t integer(const Json& config, const std::string& key, const std::string& where);
int64_t integer_or(const Json& config, const std::string& key, int64_t fallback, const std::string& where);
double number_or(const Json& config, const std::string& key, double fallback, const std::string& where);
bool flag_or(const Json& config, const std::string& key, bool fallback, const std::string& where);
std::string text_or(const Json& config, const std::string& key, const std::string& fallback, const std::string& where);

}  // namespace families
}  // namespace attune::models
