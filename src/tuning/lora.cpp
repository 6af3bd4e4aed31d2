#include "tuning/lora.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "models/merge.h"
#include "nn/weight_product.h"
#include "ops/backend.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::tuning {
namespace {

void check_names(const formats::LoraConfig& config, const models::Decoder& model) {
  const auto modules = models::linear_modules(model);
  for (const std::string& name : config.target_modules) {
    bool found = name == "lm_head" || name == "embed_tokens" || name == "model.embed_tokens";
    for (const std::string& m : modules) found |= m == name || m.ends_with(fmt::format(".{}", name));
    if (found) continue;
    refuse("lora_target: the model has no module \"{}\"; the layers have {}, and beside them are embed_tokens and lm_head", name, fmt::join(models::module_kinds(model), ", "));
  }
  for (int64_t layer : config.layers_to_transform)
    if (layer < 0 || layer >= model.config().num_hidden_layers)
      refuse("layers_to_transform: {} is not a layer of this model; it has 0 to {}", layer, model.config().num_hidden_layers - 1);
}

// normal(0, 1), as PEFT begins B of an embedding; its A is 0.
void begin_embedding_up(nn::Parameter& p, uint64_t seed) {
  const uint64_t key = mix_key(seed, hash64(p.name));
  std::vector<float> values(static_cast<size_t>(p.count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = normal_pair(element_bits(key, 2 * i), element_bits(key, 2 * i + 1))[0];
  models::store(p, values);
}

// kaiming_uniform(a = √5), as PEFT: uniform within 1/√in.
void begin_down(nn::Parameter& p, uint64_t seed) {
  const uint64_t key = mix_key(seed, hash64(p.name));
  const float bound = 1.0f / std::sqrt(static_cast<float>(p.shape[1]));
  std::vector<float> row(static_cast<size_t>(p.shape[1]));
  for (int64_t r = 0; r < p.shape[0]; ++r) {
    for (size_t i = 0; i < row.size(); ++i)
      row[i] = bound * (2 * uniform_float(element_bits(key, static_cast<uint64_t>(r) * row.size() + i)) - 1);
    p.set(r * p.shape[1], row);
  }
}

// The adapters of a model, each with its weight: f(weight, adapter).
template <class F>
void for_each_adapter(models::Decoder& model, F&& f) {
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i)
    for (const char* name : {"qkv", "o", "gate_up", "down"})
      for (const nn::Adapter& a : model.layer_linear(i, name).adapters) {
        const std::string prefix = formats::kAdapterPrefix, path = a.a->name.substr(prefix.size());
        f(*model.parameters().find(path.substr(0, path.rfind(".lora_A")) + ".weight"), a);
      }
}

// A and B begin as a part of the weight. The copies are what is taken out, as they are held: then nothing is lost.
void begin_from_weights(const LoraOptions& o, models::Decoder& model) {
  for_each_adapter(model, [&](nn::Parameter& weight, const nn::Adapter& adapter) {
    std::vector<float> a(static_cast<size_t>(adapter.a->count())), b(static_cast<size_t>(adapter.b->count()));
    const Tensor down = Tensor::matrix(a.data(), DType::f32, adapter.a->shape[0], adapter.a->shape[1]);
    const Tensor up = Tensor::matrix(b.data(), DType::f32, adapter.b->shape[0], adapter.b->shape[1]);
    decompose(o.start, weight, adapter.scale, down, up);
    for (const auto& [p, values] : {std::pair(adapter.a, &a), {adapter.b, &b}}) {
      nn::Parameter& kept = *models::beginning_of(model, *p);
      kept.set(0, *values);
      convert_on(*p->device, kept.weight, p->stepped());
      p->refresh();
    }
  });
}

// A and B as they were before the first update, exactly, out of what a checkpoint has of them. The rest that learns stays the base's.
void load_beginnings(const fs::path& checkpoint, models::Decoder& model) {
  std::vector<std::pair<nn::Parameter*, std::vector<float>>> kept;
  for (const auto& p : model.parameters().all())
    if (!p->adapter_name.empty() && !p->added) {
      kept.emplace_back(p.get(), std::vector<float>(static_cast<size_t>(p->count())));
      convert(p->stepped().data, p->stepped().dtype, kept.back().second.data(), DType::f32, kept.back().second.size());
    }
  models::load_adapter(model, checkpoint);
  for (const auto& [p, values] : kept) models::store(*p, values);
  for (const auto& p : model.parameters().all())
    if (const nn::Parameter* begun = models::beginning_of(model, *p)) {
      convert_on(*p->device, begun->weight, p->stepped());
      p->refresh();
    }
}

// Magnitudes begin as the lengths of the rows that the adapter leaves: a new one changes nothing.
void begin_magnitudes(models::Decoder& model) {
  Device& device = *model.embedding().device;
  Arena slabs(device, uint64_t{1} << 36);  // of which only what is used is taken
  ops::Context context(ops::backend_of(device), slabs);
  for_each_adapter(model, [&](nn::Parameter& weight, const nn::Adapter& a) {
    if (!a.magnitude) return;
    nn::adapted_norms(context, weight, a, a.magnitude->stepped());
    a.magnitude->refresh();
  });
}

}  // namespace

// LLaMA-Factory's "all": the last parts of the names of all linear modules but the head, as PEFT's file lists them.
formats::LoraConfig adapter_config(const LoraOptions& options, const models::Decoder& model) {
  formats::LoraConfig config = options.config;
  auto& targets = config.target_modules;
  if (std::erase(targets, "all") == 0) return config;
  for (const std::string& name : models::module_kinds(model))
    if (std::find(targets.begin(), targets.end(), name) == targets.end()) targets.push_back(name);
  std::sort(targets.begin(), targets.end());
  return config;
}

void apply_lora(const LoraOptions& options, models::Decoder& model) {
  const formats::LoraConfig config = adapter_config(options, model);
  if (options.continued.empty()) check_names(config, model);
  models::attach_adapter(model, config);
  if (options.start.how != LoraStart::zero) {
    if (model.embedding_adapter() || model.head().adapter())
      refuse("pissa_init and init_lora_weights: olora are for modules of the layers; take embed_tokens and lm_head out of lora_target, or begin at zero");
    models::add_beginnings(model);
  }
  for (const auto& p : model.parameters().all()) {
    p->trainable = !p->adapter_name.empty();
    if (options.plus_ratio > 0 && (p->name.ends_with(".lora_B.weight") || p->is_vector())) p->lr_scale = static_cast<float>(options.plus_ratio);
    if (options.plus_ratio > 0 && p->name.ends_with(".lora_embedding_B")) p->lr_scale = static_cast<float>(options.plus_embedding);
  }
  if (options.tensor_train.on()) declare_cores(options.tensor_train, model);
}

void begin_lora(const LoraOptions& o, models::Decoder& model, formats::ModelDirectory& base, const fs::path& checkpoint, bool anchored) {
  if (!o.merged.empty()) models::merge_into(model, base, o.merged);
  const bool taken_out = o.start.how != LoraStart::zero, resumes = !checkpoint.empty();
  if (resumes && anchored && taken_out) load_beginnings(checkpoint, model);
  else if (resumes && !anchored) load_adapter(checkpoint, model);
  else if (!o.continued.empty()) load_adapter(o.continued, model);
  else if (taken_out) begin_from_weights(o, model);
  else if (o.tensor_train.on()) begin_cores(model, o.start.seed);
  else
    for (const auto& p : model.parameters().all()) {  // fresh memory is zero: what is not named here is
      if (p->name.ends_with(".lora_A.weight")) begin_down(*p, o.start.seed);
      if (p->name.ends_with(".lora_embedding_B")) begin_embedding_up(*p, o.start.seed);
    }
  if (taken_out)
    for_each_adapter(model, [&](nn::Parameter& weight, const nn::Adapter& a) {
      take_out(weight, a.scale, models::beginning_of(model, *a.a)->weight, models::beginning_of(model, *a.b)->weight);
    });
  if ((!resumes || anchored) && o.continued.empty()) begin_magnitudes(model);
}

formats::LoraConfig saved_config(const LoraOptions& options, const models::Decoder& model) {
  const formats::LoraConfig config = adapter_config(options, model);
  return options.start.how == LoraStart::zero ? config : models::with_beginnings(config);
}

void load_adapter(const fs::path& directory, models::Decoder& model) {
  models::load_adapter(model, directory);
  load_cores(directory, model);
}

void save_adapter(const fs::path& directory, const LoraOptions& options, const models::Decoder& model, DType dtype) {
  models::save_adapter(directory, model, saved_config(options, model), dtype);
  if (options.tensor_train.on()) save_cores(directory, options.tensor_train, model);
}

bool unties(const LoraOptions& options, const models::DecoderConfig& architecture) {
  if (models::unties(architecture, options.config)) return true;
  for (const std::string& directory : options.merged)
    if (models::unties(architecture, formats::read_lora_config(directory))) return true;
  return false;
}

}  // namespace attune::tuning
