// PEFT's adapter directory (https://github.com/huggingface/peft): adapter_config.json and adapter_model.safetensors.
//
// Tensors are named base_model.model.<module>.lora_A.weight [r, in] and .lora_B.weight [out, r], with DoRA also
// .lora_magnitude_vector [out]; of an embedding .lora_embedding_A [r, vocabulary] and .lora_embedding_B [d, r]; modules that are saved as a whole keep their names below that prefix; the bias of an adapted module is <module>.base_layer.bias.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor_file.h"
#include "util/json.h"

namespace attune::formats {

inline constexpr const char* kAdapterPrefix = "base_model.model.";

// adapter_config.json of peft_type LORA, as far as it decides what is computed.
struct LoraConfig {
  std::string base_model;  // base_model_name_or_path
  int64_t r = 8;
  double alpha = 8, dropout = 0;
  // Names that a module's path ends with, or one regular expression that the whole path matches.
  std::vector<std::string> target_modules, exclude_modules;
  std::string target_pattern, exclude_pattern;
  std::vector<std::string> modules_to_save;  // what a module's path ends with, in letters
  std::vector<int64_t> layers_to_transform;  // empty: all
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, double>> rank_pattern, alpha_pattern;  // expression that a path ends with → number
  std::string bias = "none";                                              // none, all, lora_only
  bool use_rslora = false, use_dora = false;
  std::string init_lora_weights = "true";  // how A and B began
  std::string task_type = "CAUSAL_LM";     // or SEQ_CLS, where the head scores sequences

  // Of the module with this path.
  int64_t rank_of(const std::string& module) const;
  double scale_of(const std::string& module) const;
  bool targets(const std::string& module) const;
  bool saves(const std::string& module) const;  // or one of the modules it lies in
};

// Whether the directory holds an adapter.
bool is_adapter(const fs::path& directory);

// Refuses adapters of other kinds, and features that would change results, by name.
LoraConfig read_lora_config(const fs::path& directory);
// The same keys for every reader; none of our own.
Json lora_config_json(const LoraConfig& config);

// What PEFT saves the weight of an adapted module (or its bias) as, by the name it has in the base: "….base_layer.weight".
std::string base_layer_name(const std::string& parameter);

// adapter_model.safetensors, or adapter_model.bin of older versions.
std::unique_ptr<TensorFile> open_adapter(const fs::path& directory);

}  // namespace attune::formats
