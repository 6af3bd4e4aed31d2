// What the configuration says about adapters, in LLaMA-Factory's names.
#pragma once

#include "train/config.h"
#include "tuning/lora.h"

namespace attune::train {

// Reads adapter_config.json of the adapter that is continued. As in LLaMA-Factory: of adapter_name_or_path the last one is
// trained on and those before it become part of the base; with create_new_adapter all do.
tuning::LoraOptions lora_options(const Config& config);

// Whether a value of lora_target is a regular expression over module paths rather than a name.
bool is_pattern(const std::string& target);

// Refuses what does not go with adapters.
void check_lora(const Config& config);

}  // namespace attune::train
