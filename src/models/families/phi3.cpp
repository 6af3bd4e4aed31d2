// Phi-3, Phi-3.5 and Phi-4-mini (Phi3ForCausalLM): q‖k‖v and gate‖up are saved as one tensor each, a part of each head may
// stay unrotated, long contexts use LongRoPE.
#include "models/families/family.h"
#include "util/error.h"

namespace attune::models::families {

DecoderConfig phi3(const Json& config, const std::string& where) {
  Defaults defaults;
  defaults.rms_norm_eps = 1e-5;
  defaults.partial_rotary = true;
  DecoderConfig c = common(config, where, defaults);
  c.family = "phi3";
  c.fused_qkv = "qkv_proj";
  c.fused_gate_up = true;
  for (const char* key : {"resid_pdrop", "embd_pdrop"})
    if (number_or(config, key, 0, where) != 0) refuse("{}: \"{}\" is not 0; this dropout is not supported", where, key);
  if (c.rope.type != RopeConfig::Type::standard && c.rope.type != RopeConfig::Type::longrope)
    refuse("{}: this rope_type is not known in phi3; expected \"longrope\" or none", where);
  const int64_t window = present(config, "sliding_window") ? window_or(config, 0, where) : 0;
  read_layer_types(c, config, window, [](const Json&, int64_t) { return true; }, where);
  return c;
}

}  // namespace attune::models::families
