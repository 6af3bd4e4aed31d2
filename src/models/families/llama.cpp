// Llama 2 and 3 (LlamaForCausalLM).
#include "models/families/family.h"

namespace attune::models::families {

DecoderConfig llama(const Json& config, const std::string& where) {
  DecoderConfig c = common(config, where);
  c.family = "llama";
  c.qkv_bias = c.o_bias = flag_or(config, "attention_bias", false, where);
  c.mlp_bias = flag_or(config, "mlp_bias", false, where);
  return c;
}

}  // namespace attune::models::families
