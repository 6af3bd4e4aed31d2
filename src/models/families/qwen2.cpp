// Qwen2 and Qwen2.5 (Qwen2ForCausalLM): biases on q, k and v, on nothing else, and no config key says so.
#include "models/families/family.h"

namespace attune::models::families {

DecoderConfig qwen2(const Json& config, const std::string& where) {
  DecoderConfig c = common(config, where);
  c.family = "qwen2";
  c.qkv_bias = true;
  // Without use_sliding_window a sliding_window in the file means nothing; with it the upper layers slide.
  const int64_t window = flag_or(config, "use_sliding_window", false, where) ? window_or(config, 4096, where) : 0;
  if (window > 0) integer_or(config, "max_window_layers", 28, where);
  read_layer_types(c, config, window, [](const Json& j, int64_t layer) { return layer >= integer_or(j, "max_window_layers", 28, ""); }, where);
  return c;
}

}  // namespace attune::models::families
