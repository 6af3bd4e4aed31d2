// Adapters on a decoder: which modules get one, their tensors ↔ PEFT's files.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <utility>

#include "formats/model_directory.h"
#include "formats/peft.h"
#include "models/decoder.h"

namespace attune::models {

// What an adapter puts beside a model.
struct AdapterSlots {
  std::vector<std::pair<nn::Linear*, std::vector<nn::Adapter>>> linears;
  std::optional<nn::Adapter> embedding, head;
  // Parameters of the model whose values the adapter has as a whole (modules_to_save, biases), and their names in its file.
  std::vector<std::pair<nn::Parameter*, std::string>> whole;
};
// Declares A and B, with DoRA the magnitudes too (`Parameter::added`, named as in PEFT's file), of every module that `config`
// targets in `store`. Before its storage is allocated. Refuses a configuration that chooses nothing, and modules that cannot
// have an adapter.
AdapterSlots declare_slots(Decoder& model, nn::ParameterStore& store, const formats::LoraConfig& config);
// The same in the model's own store, put into its layers; what else belongs to the adapter gets its name there (adapter_name).
// What is trained is not decided here.
void attach_adapter(Decoder& model, const formats::LoraConfig& config);

// Beside every A and B a frozen copy ("….lora_A.init") of what they begin as, where that part is taken out of the base
// (PiSSA, OLoRA). Behind attach_adapter. Such an adapter is saved as plain LoRA of twice the rank, which the base as it was
// can be used with: [A; A₀] and [B, −B₀].
void add_beginnings(Decoder& model);
// The copy that belongs to an A or B; nullptr where there is none.
nn::Parameter* beginning_of(const Decoder& model, const nn::Parameter& parameter);
// What adapter_config.json says of the saved form.
formats::LoraConfig with_beginnings(formats::LoraConfig config);

// Whether the adapter changes one of a tied embedding and head without the other: the model must then hold them apart.
bool unties(const DecoderConfig& architecture, const formats::LoraConfig& config);
// As `unties` asks: a model whose head begins as a copy of the embedding.
void untie(DecoderConfig& architecture);

// Fails where a tensor of an adapter holds what is no number: it would spoil every answer.
void check_finite(const formats::TensorFile& file, const formats::TensorInfo& tensor, std::span<const float> values);

// A matrix of `rows` rows turned.
std::vector<float> turned(const std::vector<float>& values, int64_t rows);

// A vocabulary of `rows` words, on a base whose files have fewer. Never shrinks.
void grow_vocabulary(DecoderConfig& architecture, int64_t rows);
// As an adapter has it that saves a larger embedding and head. Refuses one that has grown without the other.
void grow_vocabulary(DecoderConfig& architecture, const fs::path& adapter);

// Gives a parameter new numbers: the master first where there is one; quantised where it is held so.
void store(nn::Parameter& parameter, const std::vector<float>& values);

// Reads everything that has an adapter_name (and beginnings), masters first where there are any; nothing may be missing or
// left over. Of `store`, or of the model's own.
void load_adapter(const nn::ParameterStore& store, Decoder& model, const fs::path& directory);
void load_adapter(Decoder& model, const fs::path& directory);

// What goes into adapter_model.safetensors.
std::vector<formats::TensorSource> adapter_sources(const Decoder& model, DType dtype);

// Writes both files into an existing directory.
void save_adapter(const fs::path& directory, const Decoder& model, const formats::LoraConfig& config, DType dtype);

// Modules of the layers that can have an adapter ("model.layers.0.self_attn.q_proj" …).
std::vector<std::string> linear_modules(const Decoder& model);
// The last parts of their names ("q_proj" …).
std::set<std::string> module_kinds(const Decoder& model);

}  // namespace attune::models
