// Gemma 1, 2 and 3 (text): norm weights centred on 0, embeddings scaled by √hidden_size, GEGLU, tied embeddings. Gemma 2
// adds norms behind attention and MLP, soft caps and layers that slide in turn; Gemma 3 norms of q and k, and a rotary
// base of its own for the sliding layers, five of six.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/families/family.h"
#include "util/error.h"

namespace attune::models::families {
namespace {

DecoderConfig base(const Json& config, const std::string& where, double theta = 10000, double local_theta = 0) {
  require_keys(config, {"head_dim", "num_key_value_heads"}, where);
  Defaults defaults;
  defaults.tie_word_embeddings = true;
  defaults.activation = ops::GateActivation::gelu_tanh;
  defaults.rope_theta = theta;
  defaults.local_rope_theta = local_theta;
  DecoderConfig c = common(config, where, defaults);
  c.norm_offset = 1;
  c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.hidden_size)));
  c.qkv_bias = c.o_bias = flag_or(config, "attention_bias", false, where);
  if (flag_or(config, "use_bidirectional_attention", false, where))
    refuse("{}: use_bidirectional_attention is true; only causal attention is supported", where);
  return c;
}

float cap_or(const Json& config, const char* key, double fallback, const std::string& where) {
  if (config.contains(key) && config[key].is_null()) return 0;
  const double cap = number_or(config, key, fallback, where);
  if (!(cap >= 0)) refuse("{}: \"{}\" is {}; expected a number above 0, or null", where, key, cap);
  return static_cast<float>(cap);
}

void read_scale(DecoderConfig& c, const Json& config, const std::string& where) {
  const double scalar = number_or(config, "query_pre_attn_scalar", 256, where);
  if (!(scalar > 0)) refuse("{}: \"query_pre_attn_scalar\" is {}; expected a number above 0", where, scalar);
  c.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
}

}  // namespace

DecoderConfig gemma(const Json& config, const std::string& where) {
  DecoderConfig c = base(config, where);
  c.family = "gemma";
  return c;
}

DecoderConfig gemma2(const Json& config, const std::string& where) {
  DecoderConfig c = base(config, where);
  c.family = "gemma2";
  c.post_norms = true;
  c.attention_softcap = cap_or(config, "attn_logit_softcapping", 50, where);
  c.logit_softcap = cap_or(config, "final_logit_softcapping", 30, where);
  read_scale(c, config, where);
  read_layer_types(c, config, window_or(config, 4096, where), [](const Json&, int64_t layer) { return layer % 2 == 0; }, where);
  return c;
}

DecoderConfig gemma3(const Json& config, const std::string& where) {
  DecoderConfig c = base(config, where, 1'000'000, 10'000);
  c.family = "gemma3_text";
  c.post_norms = c.qk_norm = true;
  c.logit_softcap = cap_or(config, "final_logit_softcapping", 0, where);
  if (cap_or(config, "attn_logit_softcapping", 0, where) > 0)
    refuse("{}: attn_logit_softcapping is set; transformers reads it for gemma3 but does not apply it", where);
  read_scale(c, config, where);
  if (integer_or(config, "sliding_window_pattern", 6, where) < 1) refuse("{}: \"sliding_window_pattern\" must be at least 1", where);
  read_layer_types(c, config, window_or(config, 4096, where),
                   [](const Json& j, int64_t layer) { return (layer + 1) % integer_or(j, "sliding_window_pattern", 6, "") != 0; }, where);
  return c;
}

}  // namespace attune::models::families
