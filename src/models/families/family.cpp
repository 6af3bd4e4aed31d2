#include "models/families/family.h"

#include <fmt/ranges.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune::models {
namespace {

using Parser = DecoderConfig (*)(const Json&, const std::string&);

const std::map<std::string, Parser>& registry() {
  static const std::map<std::string, Parser> families{{"llama", families::llama}, {"qwen2", families::qwen2}};
  return families;
}

bool present(const Json& config, const std::string& key) { return config.contains(key) && !config[key].is_null(); }

void check_positive(int64_t value, int64_t limit, const char* key, const std::string& where) {
  if (value < 1 || value > limit) refuse("{}: \"{}\" is {}; expected 1 to {}", where, key, value, limit);
}

RopeConfig parse_rope(const Json& config, double max_positions, const std::string& where) {
  RopeConfig rope;
  rope.theta = families::number_or(config, "rope_theta", 10000, where);
  const bool modern = present(config, "rope_parameters");
  const char* key = modern ? "rope_parameters" : "rope_scaling";
  if (!present(config, key)) return rope;
  const Json& scaling = config[key];
  if (!scaling.is_object()) refuse("{}: \"{}\" must be an object", where, key);
  const std::string inside = where + " " + key;
  rope.theta = families::number_or(scaling, "rope_theta", rope.theta, inside);
  const std::string type = families::text_or(scaling, "rope_type", families::text_or(scaling, "type", "default", inside), inside);
  if (type == "default") return rope;
  if (type != "llama3")
    refuse("{}: rope_type \"{}\" is not supported; known are \"default\" and \"llama3\"", inside, type);
  rope.type = RopeConfig::Type::llama3;
  rope.factor = families::number_or(scaling, "factor", 0, inside);
  rope.low_freq_factor = families::number_or(scaling, "low_freq_factor", 0, inside);
  rope.high_freq_factor = families::number_or(scaling, "high_freq_factor", 0, inside);
  rope.original_max_position_embeddings = families::number_or(scaling, "original_max_position_embeddings", max_positions, inside);
  if (rope.factor <= 0 || rope.low_freq_factor <= 0 || rope.high_freq_factor <= rope.low_freq_factor)
    refuse("{}: llama3 scaling needs factor > 0 and 0 < low_freq_factor < high_freq_factor", inside);
  return rope;
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
  return it->second(config, where);
}

namespace families {

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

DecoderConfig common(const Json& config, const std::string& where) {
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
  if (c.head_dim % 2 != 0) refuse("{}: head_dim is {}; rotary embeddings need an even number", where, c.head_dim);
  c.max_position_embeddings = integer_or(config, "max_position_embeddings", 2048, where);
  check_positive(c.max_position_embeddings, int64_t{1} << 30, "max_position_embeddings", where);
  c.rms_norm_eps = static_cast<float>(number_or(config, "rms_norm_eps", 1e-6, where));
  if (!(c.rms_norm_eps > 0)) refuse("{}: \"rms_norm_eps\" is {}; expected a number above 0", where, c.rms_norm_eps);
  c.tie_word_embeddings = flag_or(config, "tie_word_embeddings", false, where);
  c.attention_dropout = static_cast<float>(number_or(config, "attention_dropout", 0, where));
  if (!(c.attention_dropout >= 0 && c.attention_dropout < 1))
    refuse("{}: \"attention_dropout\" is {}; expected 0 or more and below 1", where, c.attention_dropout);
  c.initializer_range = static_cast<float>(number_or(config, "initializer_range", 0.02, where));
  c.rope = parse_rope(config, static_cast<double>(c.max_position_embeddings), where);
  if (!(c.rope.theta > 0)) refuse("{}: \"rope_theta\" is {}; expected a number above 0", where, c.rope.theta);
  if (const std::string act = text_or(config, "hidden_act", "silu", where); act != "silu" && act != "swish")
    refuse("{}: hidden_act \"{}\" is not supported in this family; expected \"silu\"", where, act);
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
