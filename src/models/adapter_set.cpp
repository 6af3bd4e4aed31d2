#include "models/adapter_set.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "models/quantized_base.h"
#include "tensor/transfer.h"
#include "util/error.h"

namespace attune::models {
namespace {

std::string names_of(const std::vector<NamedAdapter>& set) {
  std::vector<std::string> names;
  for (const NamedAdapter& a : set) names.push_back(a.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// "0.7*law" → the adapter's place in the set, and 0.7.
std::pair<size_t, double> parse_summand(const std::string& text, const std::vector<NamedAdapter>& set) {
  double weight = 1;
  std::string name = text;
  if (const size_t star = text.find('*'); star != std::string::npos) {
    const std::string number = trimmed(text.substr(0, star));
    name = trimmed(text.substr(star + 1));
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
    if (error != std::errc() || end != number.data() + number.size() || !(std::abs(weight) <= 1e6))
      refuse("\"{}\": a weight is a number before the *, as in 0.7*{}", text, set[0].name);
  }
  const auto it = std::find_if(set.begin(), set.end(), [&](const NamedAdapter& a) { return a.name == name; });
  if (it == set.end()) refuse("there is no adapter \"{}\"; there are {} (and none: the base alone)", name, names_of(set));
  return {static_cast<size_t>(it - set.begin()), weight};
}

bool is_linear(const Decoder& model, const nn::Parameter& p) {
  const std::vector<std::string> modules = linear_modules(model);
  return std::find(modules.begin(), modules.end(), p.name.substr(0, p.name.rfind('.'))) != modules.end() && !p.is_vector();
}

}  // namespace

std::vector<std::string> AdapterRequest::directories() const {
  std::vector<std::string> out = chain;
  for (const NamedAdapter& a : set) out.push_back(a.directory);
  return out;
}

std::vector<double> parse_weights(const std::string& text, const std::vector<NamedAdapter>& set) {
  if (set.empty()) refuse("\"{}\" chooses an adapter, and none was named with --adapter", text);
  std::vector<double> weights(set.size(), text.empty() ? 1 : 0);
  if (text.empty() || trimmed(text) == "none") return weights;
  std::vector<bool> named(set.size());
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('+', at), text.size());
    const auto [place, weight] = parse_summand(trimmed(text.substr(at, end - at)), set);
    if (named[place]) refuse("\"{}\" names {} twice", text, set[place].name);
    named[place] = true;
    weights[place] = weight;
    at = end + 1;
  }
  return weights;
}

std::string weights_text(const std::vector<double>& weights, const std::vector<NamedAdapter>& set) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i] != 0) parts.push_back(weights[i] == 1 ? set[i].name : fmt::format("{:g}*{}", weights[i], set[i].name));
  return parts.empty() ? "none" : fmt::format("{}", fmt::join(parts, "+"));
}

void check_sum(const std::vector<Summand>& summands) {
  for (const Summand& s : summands)
    if (s.dora && (summands.size() > 1 || s.weight != 1))
      refuse("adapter {} is a DoRA adapter: its magnitudes set the lengths of whole rows, so it has no sum with others and no weight. Use it alone; where it was trained "
             "on top of the others name them as a chain, --adapter first,second", s.name);
  for (const Summand& s : summands) {
    for (const std::string& tensor : s.replaced) {
      if (s.weight != 1) refuse("adapter {} saves {} as a whole (modules_to_save, bias), which a weight of {:g} has no meaning for; its weight must be 1", s.name, tensor, s.weight);
      for (const Summand& other : summands)
        if (&other != &s && std::find(other.changed.begin(), other.changed.end(), tensor) != other.changed.end())
          refuse("adapter {} saves {} as a whole (modules_to_save, bias), and {} changes it too: they cannot be combined. Use one at a time; where {} was trained on top of {} "
                 "name them as a chain, --adapter first,second", s.name, tensor, other.name, s.name, other.name);
    }
  }
}

// An adapter beside the model, in storage of its own.
struct AdapterSet::Member {
  nn::ParameterStore store;
  AdapterSlots slots;
  std::vector<std::pair<nn::Parameter*, nn::Parameter*>> whole;  // of the model, and the adapter's (while it is on: the base's)
  bool dora = false;

  std::vector<std::string> replaced() const {
    std::vector<std::string> names;
    for (const auto& [p, own] : whole) names.push_back(p->name);
    return names;
  }
  std::vector<std::string> changed() const {
    std::vector<std::string> names = replaced();
    const size_t prefix = std::string_view(formats::kAdapterPrefix).size();
    for (const auto& p : store.all())
      for (const char* down : {".lora_A.weight", ".lora_embedding_A"})
        if (p->name.ends_with(down)) names.push_back(p->name.substr(prefix, p->name.size() - prefix - std::string_view(down).size()) + ".weight");
    return names;
  }
};

AdapterSet::AdapterSet(Decoder& model, std::vector<NamedAdapter> adapters, const Quantization& quantization)
    : model_(model), adapters_(std::move(adapters)), weights_(adapters_.size(), 0) {
  if (adapters_.size() > 1 && model.config().stored_vocab_size > 0)
    refuse("--adapter: one of {} has new tokens; such an adapter is used alone, or merged first (attune merge)", names_of(adapters_));
  for (const NamedAdapter& a : adapters_) {
    auto m = std::make_unique<Member>();
    const formats::LoraConfig config = formats::read_lora_config(a.directory);
    m->dora = config.use_dora;
    m->slots = declare_slots(model, m->store, config);
    for (const auto& [p, name] : m->slots.whole) {
      if (quantization.on() && adapters_.size() > 1 && is_linear(model, *p))
        refuse("--adapter: {} saves {} as a whole, which the others would have quantised; use it alone, or without --quantization", a.name, p->name);
      p->adapter_name = name;  // stays dense where the base is quantised
      nn::Parameter& own = m->store.add(p->name, p->shape);
      own.adapter_name = name;
      m->whole.emplace_back(p, &own);
    }
    members_.push_back(std::move(m));
  }
  quantize_layers(model, quantization);
}

AdapterSet::~AdapterSet() = default;

uint64_t AdapterSet::bytes(DType dtype) const {
  uint64_t n = 0;
  for (const auto& m : members_) n += static_cast<uint64_t>(m->store.count()) * size_of(dtype);
  return n;
}

void AdapterSet::load(DType dtype) {
  for (size_t i = 0; i < members_.size(); ++i) {
    members_[i]->store.allocate_weights(*model_.embedding().device, dtype);
    for (const auto& p : members_[i]->store.all()) p->trainable = false;
    load_adapter(members_[i]->store, model_, adapters_[i].directory);
  }
}

void AdapterSet::check(const std::vector<double>& weights) const {
  std::vector<Summand> summands;
  bool embedding = false, head = false;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (weights[i] == 0) continue;
    const Member& m = *members_[i];
    summands.push_back({adapters_[i].name, weights[i], m.dora, m.changed(), m.replaced()});
    if ((m.slots.embedding && embedding) || (m.slots.head && head))
      refuse("adapter {} is not the only one on {}: such adapters cannot be combined while the model runs; merge them (attune merge)", adapters_[i].name,
             m.slots.embedding && embedding ? "embed_tokens" : "lm_head");
    embedding |= m.slots.embedding.has_value();
    head |= m.slots.head.has_value();
  }
  check_sum(summands);
  const DecoderConfig& c = model_.config();
  if (c.stored_vocab_size == 0 && !c.score_is_new) return;
  const nn::Parameter& needed = c.score_is_new ? model_.head_weight() : model_.embedding();
  const auto brings = [&](const Summand& s) { return std::find(s.replaced.begin(), s.replaced.end(), needed.name) != s.replaced.end(); };
  if (std::none_of(summands.begin(), summands.end(), brings))
    refuse("the base alone has no {}: choose an adapter that brings it", c.score_is_new ? "head that scores sequences" : "rows for the new tokens");
}

// Twice is not at all.
void AdapterSet::exchange(Member& member) {
  for (const auto& [p, own] : member.whole)
    swap_on(*p->device, p->weight, own->weight);
}

void AdapterSet::select(const std::vector<double>& weights) {
  check(weights);
  // First all that goes, so that what comes finds the base.
  for (size_t i = 0; i < members_.size(); ++i)
    if (weights_[i] != 0 && weights[i] == 0) exchange(*members_[i]);
  for (size_t i = 0; i < members_.size(); ++i)
    if (weights_[i] == 0 && weights[i] != 0) exchange(*members_[i]);
  weights_ = weights;
  for (auto& m : members_)
    for (auto& [layer, adapters] : m->slots.linears) layer->adapters.clear();
  model_.embedding_adapter().reset();
  model_.head().adapt(std::nullopt);
  for (size_t i = 0; i < members_.size(); ++i) {
    if (weights[i] == 0) continue;
    const auto weighted = [&](nn::Adapter a) {
      a.scale *= static_cast<float>(weights[i]);
      return a;
    };
    const AdapterSlots& slots = members_[i]->slots;
    for (const auto& [layer, adapters] : slots.linears)
      for (const nn::Adapter& a : adapters) layer->adapters.push_back(weighted(a));
    if (slots.embedding) model_.embedding_adapter() = weighted(*slots.embedding);
    if (slots.head) model_.head().adapt(weighted(*slots.head));
  }
}

}  // namespace attune::models
