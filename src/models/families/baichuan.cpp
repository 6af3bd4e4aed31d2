// Baichuan 1 and 2 (BaichuanForCausalLM), as their published code defines them: q‖k‖v saved as W_pack. The 7B models have
// max_position_embeddings and rotate; the 13B models have only model_max_length and use ALiBi. Baichuan 2 has a NormHead.
// No key says which is which: the first generation is known by its vocabulary of 64 000.
#include <nlohmann/json.hpp>

#include "models/families/family.h"
#include "util/error.h"

namespace attune::models::families {

DecoderConfig baichuan(const Json& config, const std::string& where) {
  constexpr int64_t kFirstVocabulary = 64000;
  const bool alibi = !present(config, "max_position_embeddings");
  if (alibi) require_keys(config, {"model_max_length"}, where);
  for (const char* key : {"rope_scaling", "rope_parameters", "num_key_value_heads"})
    if (present(config, key)) refuse("{}: \"{}\" is not known in baichuan", where, key);
  Defaults defaults;
  defaults.rotary = !alibi;
  Json named = config;
  if (alibi) named["max_position_embeddings"] = config["model_max_length"];
  DecoderConfig c = common(named, where, defaults);
  c.family = "baichuan";
  c.fused_qkv = "W_pack";
  if (alibi) c.positions = PositionEncoding::alibi;
  c.norm_head = c.vocab_size != kFirstVocabulary;
  if (c.norm_head && c.tie_word_embeddings) refuse("{}: tie_word_embeddings cannot go with a NormHead", where);
  const double z_loss = number_or(config, "z_loss_weight", 0, where);
  if (!(z_loss >= 0)) refuse("{}: \"z_loss_weight\" is {}; expected 0 or more", where, z_loss);
  c.z_loss_weight = static_cast<float>(z_loss);
  return c;
}

}  // namespace attune::models::families
