#include "models/families/family.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune::models {
namespace {

using Parser = DecoderConfig (*)(const Json&, const std::string&);

const std::map<std::string, Parser>& registry() {
  static const std::map<std::string, Parser> families{
      {"baichuan", families::baichuan}, {"gemma", families::gemma}, {"gemma2", families::gemma2},
      {"gemma3_text", families::gemma3}, {"llama", families::llama}, {"mistral", families::mistral},
      {"phi3", families::phi3}, {"qwen2", families::qwen2}, {"qwen3", families::qwen3}};
  return families;
}

void check_positive(int64_t value, int64_t limit, const char* key, const std::string& where) {
  if (value < 1 || value > limit) refuse("{}: \"{}\" is {}; expected 1 to {}", where, key, value, limit);
}

constexpr std::string_view kCausal = "ForCausalLM", kScoring = "ForSequenceClassification";

void read_labels(DecoderConfig& c, const Json& config, const std::string& where) {
  if (!config.contains("architectures") || !config["architectures"].is_array()) return;
  for (const Json& name : config["architectures"]) {
    if (!name.is_string() || !name.get<std::string>().ends_with(kScoring)) continue;
    int64_t labels = 2;  // transformers' default
    if (families::present(config, "id2label") && config["id2label"].is_object()) labels = static_cast<int64_t>(config["id2label"].size());
    labels = families::integer_or(config, "num_labels", labels, where);
    check_positive(labels, 1 << 20, "num_labels", where);
    c.num_labels = labels;
    c.tie_word_embeddings = false;
  }
}

}  // namespace

const std::vector<std::string>& supported_families() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, parser] : registry()) all.push_back(name);
    return all;
  }();
  return names;
}

DecoderConfig parse_config(const Json& config, const std::string& where) {
  if (!config.is_object()) refuse("{}: must be a JSON object", where);
  const std::string type = families::text_or(config, "model_type", "", where);
  const auto it = registry().find(type);
  if (it == registry().end())
    refuse("{}: model_type \"{}\" is not supported; supported are {}", where, type, fmt::join(supported_families(), ", "));
  DecoderConfig c = it->second(config, where);
  read_labels(c, config, where);
  return c;
}

void score_sequences(DecoderConfig& architecture, int64_t labels) {
  architecture.score_is_new = architecture.num_labels == 0;
  architecture.num_labels = labels;
  architecture.tie_word_embeddings = false;
}

Json scoring_config(const Json& base, int64_t labels, int64_t pad_token) {
  Json config = base;
  for (Json& name : config["architectures"])
    if (name.is_string())
      if (const auto text = name.get<std::string>(); text.ends_with(kCausal)) name = text.substr(0, text.size() - kCausal.size()) + std::string(kScoring);
  // transformers reads the number of labels from these.
  config["id2label"] = config["label2id"] = Json::object();
  for (int64_t i = 0; i < labels; ++i) {
    config["id2label"][std::to_string(i)] = fmt::format("LABEL_{}", i);
    config["label2id"][fmt::format("LABEL_{}", i)] = i;
  }
  if (!families::present(config, "pad_token_id") && pad_token >= 0) config["pad_token_id"] = pad_token;
  return config;
}

namespace families {

bool present(const Json& config, const std::string& key) { return config.contains(key) && !config[key].is_null(); }

void require_keys(const Json& config, const std::vector<std::string>& keys, const std::string& where) {
  for (const std::string& key : keys)
    if (!present(config, key)) refuse("{}: \"{}\" is missing", where, key);
}

int64_t integer(const Json& config, const std::string& key, const std::string& where) {
  if (!present(config, key)) refuse("{}: \"{}\" is missing", where, key);
  if (!config[key].is_number_integer()) refuse("{}: \"{}\" must be a whole number, not {}", where, key, config[key].dump());
  return config[key].get<int64_t>();
}

int64_t integer_or(const Json& config, const std::string& key, int64_t fallback, const std::string& where) {
  return present(config, key) ? integer(config, key, where) : fallback;
}

double number_or(const Json& config, const std::string& key, double fallback, const std::string& where) {
  if (!present(config, key)) return fallback;
  if (!config[key].is_number()) refuse("{}: \"{}\" must be a number, not {}", where, key, config[key].dump());
  return config[key].get<double>();
}

bool flag_or(const Json& config, const std::string& key, bool fallback, const std::string& where) {
  if (!present(config, key)) return fallback;
  if (!config[key].is_boolean()) refuse("{}: \"{}\" must be true or false, not {}", where, key, config[key].dump());
  return config[key].get<bool>();
}

std::string text_or(const Json& config, const std::string& key, const std::string& fallback, const std::string& where) {
  if (!present(config, key)) return fallback;
  if (!config[key].is_string()) refuse("{}: \"{}\" must be a string, not {}", where, key, config[key].dump());
  return config[key].get<std::string>();
}

namespace {

// Gemma's files say hidden_activation or hidden_act, and the oldest mean the tanh form when they say "gelu".
void read_activation(DecoderConfig& c, const Json& config, ops::GateActivation expected, const std::string& where) {
  c.activation = expected;
  const bool gelu = expected == ops::GateActivation::gelu_tanh;
  const char* usual = gelu ? "gelu_pytorch_tanh" : "silu";
  const std::string act = text_or(config, "hidden_activation", text_or(config, "hidden_act", usual, where), where);
  const bool known = gelu ? act == "gelu_pytorch_tanh" || act == "gelu" : act == "silu" || act == "swish";
  if (!known) refuse("{}: hidden_act \"{}\" is not supported in this family; expected \"{}\"", where, act, usual);
}

}  // namespace

int64_t window_or(const Json& config, int64_t fallback, const std::string& where) {
  if (config.contains("sliding_window") && config["sliding_window"].is_null()) return 0;
  const int64_t window = integer_or(config, "sliding_window", fallback, where);
  check_positive(window, int64_t{1} << 40, "sliding_window", where);
  return window;
}

void read_layer_types(DecoderConfig& c, const Json& config, int64_t window, bool (*slides)(const Json&, int64_t), const std::string& where) {
  const auto layers = static_cast<size_t>(c.num_hidden_layers);
  std::vector<bool> sliding(layers, false);
  if (present(config, "layer_types")) {
    const Json& types = config["layer_types"];
    if (!types.is_array() || types.size() != layers)
      refuse("{}: \"layer_types\" must be a list with one entry for each of the {} layers", where, layers);
    for (size_t i = 0; i < layers; ++i) {
      if (types[i] != "full_attention" && types[i] != "sliding_attention")
        refuse("{}: layer_types[{}] is {}; known are \"full_attention\" and \"sliding_attention\"", where, i, types[i].dump());
      sliding[i] = types[i] == "sliding_attention";
      if (sliding[i] && window == 0) refuse("{}: layer_types[{}] slides but there is no sliding_window in force", where, i);
    }
  } else if (window > 0) {
    for (size_t i = 0; i < layers; ++i) sliding[i] = slides(config, static_cast<int64_t>(i));
  }
  if (std::find(sliding.begin(), sliding.end(), true) == sliding.end()) return;
  c.sliding_window = window;
  c.sliding_layers = std::move(sliding);
}

DecoderConfig common(const Json& config, const std::string& where, const Defaults& defaults) {
  constexpr int64_t kLimit = int64_t{1} << 24;
  DecoderConfig c;
  c.hidden_size = integer(config, "hidden_size", where);
  c.intermediate_size = integer(config, "intermediate_size", where);
  c.num_hidden_layers = integer(config, "num_hidden_layers", where);
  c.num_attention_heads = integer(config, "num_attention_heads", where);
  c.vocab_size = integer(config, "vocab_size", where);
  check_positive(c.hidden_size, kLimit, "hidden_size", where);
  check_positive(c.intermediate_size, kLimit, "intermediate_size", where);
  check_positive(c.num_hidden_layers, 4096, "num_hidden_layers", where);
  check_positive(c.num_attention_heads, kLimit, "num_attention_heads", where);
  check_positive(c.vocab_size, kLimit, "vocab_size", where);
  c.num_key_value_heads = integer_or(config, "num_key_value_heads", c.num_attention_heads, where);
  check_positive(c.num_key_value_heads, c.num_attention_heads, "num_key_value_heads", where);
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    refuse("{}: num_attention_heads ({}) must be a multiple of num_key_value_heads ({})", where, c.num_attention_heads,
           c.num_key_value_heads);
  if (!present(config, "head_dim") && c.hidden_size % c.num_attention_heads != 0)
    refuse("{}: hidden_size ({}) must be a multiple of num_attention_heads ({}) where head_dim is not given", where, c.hidden_size,
           c.num_attention_heads);
  c.head_dim = integer_or(config, "head_dim", c.hidden_size / c.num_attention_heads, where);
  check_positive(c.head_dim, kLimit, "head_dim", where);
  if (c.num_attention_heads * c.head_dim > kLimit)
    refuse("{}: num_attention_heads ({}) · head_dim ({}) is beyond {}", where, c.num_attention_heads, c.head_dim, kLimit);
  if (defaults.rotary && c.head_dim % 2 != 0) refuse("{}: head_dim is {}; rotary embeddings need an even number", where, c.head_dim);
  c.max_position_embeddings = integer_or(config, "max_position_embeddings", 2048, where);
  check_positive(c.max_position_embeddings, int64_t{1} << 30, "max_position_embeddings", where);
  c.rms_norm_eps = static_cast<float>(number_or(config, "rms_norm_eps", defaults.rms_norm_eps, where));
  if (!(c.rms_norm_eps > 0)) refuse("{}: \"rms_norm_eps\" is {}; expected a number above 0", where, c.rms_norm_eps);
  c.tie_word_embeddings = flag_or(config, "tie_word_embeddings", defaults.tie_word_embeddings, where);
  c.attention_dropout = static_cast<float>(number_or(config, "attention_dropout", 0, where));
  if (!(c.attention_dropout >= 0 && c.attention_dropout < 1))
    refuse("{}: \"attention_dropout\" is {}; expected 0 or more and below 1", where, c.attention_dropout);
  c.initializer_range = static_cast<float>(number_or(config, "initializer_range", 0.02, where));
  const double original = number_or(config, "original_max_position_embeddings", 0, where);
  const double partial = number_or(config, "partial_rotary_factor", 1, where);
  if (defaults.rotary)
    read_rope(c, config, {c.head_dim, static_cast<double>(c.max_position_embeddings), original, defaults.rope_theta, defaults.local_rope_theta, partial}, where);
  if (!defaults.partial_rotary && c.rope.partial_rotary_factor != 1)
    refuse("{}: partial_rotary_factor {} is not known in this family", where, c.rope.partial_rotary_factor);
  read_activation(c, config, defaults.activation, where);
  if (present(config, "eos_token_id")) {
    const Json& eos = config["eos_token_id"];
    for (const Json& id : eos.is_array() ? eos : Json::array({eos}))
      if (id.is_number_integer()) c.eos_token_ids.push_back(id.get<int64_t>());
  }
  if (present(config, "quantization_config"))
    refuse("{}: the weights are quantised (quantization_config); full-parameter tuning needs the 16- or 32-bit model", where);
  return c;
}

}  // namespace families
}  // namespace attune::models
