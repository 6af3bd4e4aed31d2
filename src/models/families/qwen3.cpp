// Qwen3, dense (Qwen3ForCausalLM): Qwen2 without biases, with norms of every head of q and k; head_dim is its own number.
#include "models/families/family.h"

namespace attune::models::families {

DecoderConfig qwen3(const Json& config, const std::string& where) {
  require_keys(config, {"head_dim", "num_key_value_heads"}, where);
  DecoderConfig c = qwen2(config, where);
  c.family = "qwen3";
  c.qkv_bias = c.o_bias = flag_or(config, "attention_bias", false, where);
  c.qk_norm = true;
  return c;
}

}  // namespace attune::models::families
