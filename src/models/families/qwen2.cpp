// Qwen2 and Qwen2.5 (Qwen2ForCausalLM): biases on q, k and v, on nothing else, and no config key says so.
#include "models/families/family.h"
#include "util/error.h"

namespace attune::models::families {

DecoderConfig qwen2(const Json& config, const std::string& where) {
  DecoderConfig c = common(config, where);
  c.family = "qwen2";
  c.qkv_bias = true;
  if (flag_or(config, "use_sliding_window", false, where))
    refuse("{}: use_sliding_window is true; sliding-window attention is not supported for qwen2 yet", where);
  return c;
}

}  // namespace attune::models::families
