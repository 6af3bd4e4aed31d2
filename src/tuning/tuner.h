// What is trained: a policy over the model's parameters. The loop does not know which one it has.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "tuning/lora.h"

namespace attune::tuning {

// `full`: every parameter. `freeze`: some layers, or what patterns choose; the rest keeps the base's values and costs
// neither gradient nor optimizer memory. `lora`: adapters on a base that is frozen.
struct TunerOptions {
  std::string type = "full";
  // freeze, LLaMA-Factory's meaning: the last n layers (n > 0) or the first −n (n < 0), in them the modules whose name
  // holds one of `modules` ("all": every one); outside of the layers nothing but `extra_modules`.
  int64_t freeze_trainable_layers = 2;
  std::vector<std::string> freeze_trainable_modules{"all"};
  std::vector<std::string> freeze_extra_modules;
  // Regular expressions over parameter names, instead of the four above where given: exactly what they find is trained.
  std::vector<std::string> unfrozen_parameters;
  LoraOptions lora;
  Quantization quantization;  // lora: of the base's layers (models/quantized_base.h)

  bool adapts() const { return type == "lora"; }
};

// Sets Parameter::trainable before storage is allocated. Refuses options that choose nothing, naming what there is.
void apply(const TunerOptions& options, models::Decoder& model);

// A hash over all weights that never learn, in memory: the same before and after a run.
uint64_t frozen_hash(const models::Decoder& model);

// "model.layers.12.mlp.down_proj.weight" → 12; nothing for what lies outside of the layers.
std::optional<int64_t> layer_of(const std::string& name);

// What is trained in a few words: "full", "LoRA, rank 8", "tensor train, bond 4, of rank 8, on nf4-double".
std::string method_of(const TunerOptions& options);

struct ParameterCounts {
  int64_t trained = 0, all = 0;  // what only follows from other parameters is in neither
};
ParameterCounts count_parameters(const models::Decoder& model);
// "trainable parameters: 1,234 of 5,678 (21.7 %)"
std::string describe(const models::Decoder& model);

}  // namespace attune::tuning
