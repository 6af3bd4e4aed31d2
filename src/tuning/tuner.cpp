#include "tuning/tuner.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "models/quantized_base.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/pattern.h"

namespace attune::tuning {
namespace {

// "model.layers.12.mlp.down_proj.weight" → 12 and "mlp.down_proj.weight".
struct Place {
  std::optional<int64_t> layer;
  std::string rest;
};

Place place_of(const std::string& name) {
  constexpr std::string_view kMark = "layers.";
  const size_t at = name.find(kMark);
  if (at == std::string::npos) return {std::nullopt, name};
  int64_t layer = 0;
  const char* begin = name.data() + at + kMark.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
  if (error != std::errc() || *end != '.') return {std::nullopt, name};
  return {layer, std::string(end + 1, name.data() + name.size())};
}

}  // namespace

std::optional<int64_t> layer_of(const std::string& name) { return place_of(name).layer; }

namespace {

// Whether one of the dotted parts of `path` is `word`, or `word` is a dotted part sequence of it.
bool names_module(const std::string& path, const std::string& word) {
  const std::string dotted = "." + path + ".";
  return dotted.find("." + word + ".") != std::string::npos;
}

// Module names a user can choose from, for messages.
std::string known_modules(const models::Decoder& model, bool inside) {
  std::set<std::string> names;
  for (const auto& p : model.parameters().all()) {
    const Place place = place_of(p->name);
    if (place.layer.has_value() != inside) continue;
    std::string rest = place.rest;
    for (size_t at; (at = rest.find('.')) != std::string::npos; rest = rest.substr(at + 1))
      if (const std::string word = rest.substr(0, at); word != "model") names.insert(word);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

void check_modules(const models::Decoder& model, const std::vector<std::string>& modules, bool inside, const char* key) {
  for (const std::string& word : modules) {
    if (inside && word == "all") continue;
    bool found = false;
    for (const auto& p : model.parameters().all()) {
      const Place place = place_of(p->name);
      found |= place.layer.has_value() == inside && names_module(place.rest, word);
    }
    if (!found) refuse("{}: the model has no module \"{}\"; it has {}", key, word, known_modules(model, inside));
  }
}

bool any_named(const std::string& path, const std::vector<std::string>& modules) {
  return std::any_of(modules.begin(), modules.end(), [&](const std::string& m) { return m == "all" || names_module(path, m); });
}

void freeze_layers(const TunerOptions& o, models::Decoder& model) {
  const int64_t layers = model.config().num_hidden_layers, n = o.freeze_trainable_layers;
  if (n == 0 || std::abs(n) > layers)
    refuse("freeze_trainable_layers: {} is outside of 1 to {} (the last n layers) and -1 to -{} (the first n)", n, layers, layers);
  check_modules(model, o.freeze_trainable_modules, true, "freeze_trainable_modules");
  check_modules(model, o.freeze_extra_modules, false, "freeze_extra_modules");
  const int64_t first = n > 0 ? layers - n : 0, end = n > 0 ? layers : -n;
  for (const auto& p : model.parameters().all()) {
    const Place place = place_of(p->name);
    p->trainable = place.layer ? *place.layer >= first && *place.layer < end && any_named(place.rest, o.freeze_trainable_modules)
                               : any_named(place.rest, o.freeze_extra_modules);
  }
}

void freeze_by_pattern(const TunerOptions& o, models::Decoder& model) {
  for (const auto& p : model.parameters().all()) p->trainable = false;
  for (const std::string& expression : o.unfrozen_parameters) {
    const Pattern pattern(expression, "unfrozen_parameters");
    bool found = false;
    for (const auto& p : model.parameters().all())
      if (pattern.found_in(p->name)) p->trainable = found = true;
    if (!found)
      refuse("unfrozen_parameters: \"{}\" finds no parameter; names look like \"{}\"", expression, model.parameters().all()[1]->name);
  }
}

std::string thousands(int64_t n) {
  std::string digits = std::to_string(n);
  for (auto at = static_cast<ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

}  // namespace

void apply(const TunerOptions& options, models::Decoder& model) {
  if (options.type == "full") return;
  if (options.adapts()) {
    apply_lora(options.lora, model);
    return models::quantize_layers(model, options.quantization);
  }
  if (options.type != "freeze") fail("internal error: there is no tuner \"{}\"", options.type);
  if (!options.unfrozen_parameters.empty()) freeze_by_pattern(options, model);
  else freeze_layers(options, model);
  if (model.parameters().trainable_count() == 0)
    refuse("finetuning_type: freeze leaves nothing to train: freeze_trainable_modules and freeze_extra_modules name no module");
}

uint64_t frozen_hash(const models::Decoder& model) {
  uint64_t hash = 0;
  for (const auto& p : model.parameters().all())
    if (!p->learns() && !p->derived) {
      const void* data = p->is_quantized() ? p->quantized.codes : p->weight.data;
      read_pieces(*p->device, data, p->weight_bytes(), [&](uint64_t, std::span<const char> piece) { hash = hash64({piece.data(), piece.size()}, hash); });
    }
  return hash;
}

std::string method_of(const TunerOptions& o) {
  if (!o.adapts()) return o.type;
  const formats::LoraConfig& c = o.lora.config;
  std::string text = c.use_dora ? "DoRA" : "LoRA";
  if (o.lora.tensor_train.on()) text = fmt::format("{}tensor train, bond {}, of", o.lora.tensor_train.weighted ? "weighted " : "", o.lora.tensor_train.bond);
  text += fmt::format("{} rank {}{}", o.lora.tensor_train.on() ? "" : ",", c.r, c.use_rslora ? ", rsLoRA" : "");
  if (o.lora.start.how != LoraStart::zero) text += o.lora.start.how == LoraStart::pissa ? ", PiSSA" : ", OLoRA";
  if (o.lora.plus_ratio > 0) text += ", LoRA+";
  return text + (o.quantization.on() ? ", on " + text_of(o.quantization) : "");
}

ParameterCounts count_parameters(const models::Decoder& model) {
  int64_t derived = 0;
  for (const auto& p : model.parameters().all())
    if (p->derived) derived += p->count();
  return {model.parameters().trainable_count(), model.parameters().count() - derived};
}

std::string describe(const models::Decoder& model) {
  const auto [trained, all] = count_parameters(model);
  const int64_t derived = model.parameters().count() - all;
  return fmt::format("trainable parameters: {} of {} ({:.4g} %){}", thousands(trained), thousands(all),
                     100.0 * static_cast<double>(trained) / static_cast<double>(all),
                     derived ? fmt::format("; the {} of the adapter's A and B follow from them", thousands(derived)) : "");
}

}  // namespace attune::tuning
