// Mistral (MistralForCausalLM): Llama without biases; where sliding_window is a number, every layer slides. A file that
// does not name it means 4096, as in transformers.
#include "models/families/family.h"

namespace attune::models::families {

DecoderConfig mistral(const Json& config, const std::string& where) {
  require_keys(config, {"num_key_value_heads"}, where);
  DecoderConfig c = common(config, where);
  c.family = "mistral";
  read_layer_types(c, config, window_or(config, 4096, where), [](const Json&, int64_t) { return true; }, where);
  return c;
}

}  // namespace attune::models::families
