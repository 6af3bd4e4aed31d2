// finetuning_type: lora. Low-rank adapters (Hu et al. 2021) on the linear modules of the layers, and where they are named on
// embedding and head; the base is frozen.
#pragma once

#include <string>
#include <vector>

#include "formats/model_directory.h"
#include "formats/peft.h"
#include "models/decoder.h"
#include "tuning/lora_begin.h"
#include "tuning/tensor_train.h"

namespace attune::tuning {

struct LoraOptions {
  formats::LoraConfig config;  // "all" among target_modules: every linear module of the layers
  // LoRA+ (Hayou et al. 2024): B learns at this multiple of the rate; 0: off.
  double plus_ratio = 0;
  double plus_embedding = 1;  // … and B of an embedding's adapter at this multiple
  std::vector<std::string> merged;  // adapters that become part of the base before anything else
  std::string continued;            // adapter whose weights training begins with; `config` is its own
  StartOptions start;
  TensorTrainOptions tensor_train;
};

// What the model's adapter is (`all` resolved), and what adapter_config.json says of it.
formats::LoraConfig adapter_config(const LoraOptions& options, const models::Decoder& model);
formats::LoraConfig saved_config(const LoraOptions& options, const models::Decoder& model);

// Attaches the adapter and lets it alone learn.
void apply_lora(const LoraOptions& options, models::Decoder& model);

// Before the first update, with the base's weights in place: adapters merged, and A and B as they begin. A is uniform within
// 1/√in and B is 0, or as `start` says (DoRA's magnitudes: as long as the rows are then), or all come from the adapter that is continued or, where a run resumes, from its
// `checkpoint`. A function of seed and name. `anchored`: what learns is left as the run began, also where it resumes, for the engine to take
// as what it is held near; the checkpoint's values follow (load_tuned).
void begin_lora(const LoraOptions& options, models::Decoder& model, formats::ModelDirectory& base, const fs::path& checkpoint = {}, bool anchored = false);

// Fills an adapter that is attached, and the cores it comes from, out of a directory that save_adapter wrote.
void load_adapter(const fs::path& directory, models::Decoder& model);
// Writes adapter_model.safetensors, adapter_config.json and, of a tensor train, tensor_train.safetensors.
void save_adapter(const fs::path& directory, const LoraOptions& options, const models::Decoder& model, DType dtype);

// Whether the model must hold a tied embedding and head apart.
bool unties(const LoraOptions& options, const models::DecoderConfig& architecture);

}  // namespace attune::tuning
