#include "models/adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/quantized_base.h"
#include "tensor/transfer.h"
#include "util/error.h"

namespace attune::models {
namespace {

using formats::LoraConfig;

constexpr const char* kLinears[] = {"qkv", "o", "gate_up", "down"};

constexpr const char *kEmbedding = "model.embed_tokens", *kHead = "lm_head";

std::string module_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

// PEFT saves A and B of an embedding as [r, V] and [d, r]; A lies here as the table [V, r] that it is.
bool is_transposed(const nn::Parameter& p) { return p.name.ends_with(".lora_embedding_A"); }

std::vector<int64_t> saved_shape(const nn::Parameter& p) {
  return is_transposed(p) ? std::vector<int64_t>{p.shape[1], p.shape[0]} : p.shape;
}

std::string beginning_name(const nn::Parameter& p) { return module_of(p.name) + ".init"; }

// [A; A₀] or [B, −B₀] in fp32.
std::vector<float> joined(const nn::Parameter& p, const nn::Parameter& beginning) {
  const auto rows = static_cast<size_t>(p.shape[0]), cols = static_cast<size_t>(p.shape[1]), n = rows * cols;
  const std::vector<float> now = floats_of(*p.device, p.master.defined() ? p.master : p.weight), then = floats_of(*beginning.device, beginning.weight);
  std::vector<float> out;
  out.reserve(2 * n);
  if (p.name.ends_with(".lora_A.weight")) {
    out = now;
    out.insert(out.end(), then.begin(), then.end());
    return out;
  }
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) out.push_back(now[r * cols + c]);
    for (size_t c = 0; c < cols; ++c) out.push_back(-then[r * cols + c]);
  }
  return out;
}

std::vector<int64_t> joined_shape(const nn::Parameter& p) {
  const bool down = p.name.ends_with(".lora_A.weight");
  return {p.shape[0] * (down ? 2 : 1), p.shape[1] * (down ? 1 : 2)};
}

// The way back from `joined`.
void split(const std::vector<float>& both, nn::Parameter& p, nn::Parameter& beginning) {
  const auto rows = static_cast<size_t>(p.shape[0]), cols = static_cast<size_t>(p.shape[1]), n = rows * cols;
  std::vector<float> now(n), then(n);
  const bool down = p.name.ends_with(".lora_A.weight");
  for (size_t i = 0; i < n; ++i) {
    const size_t r = i / cols, c = i % cols;
    now[i] = down ? both[i] : both[r * 2 * cols + c];
    then[i] = down ? both[n + i] : -both[r * 2 * cols + cols + c];
  }
  store(p, now);
  store(beginning, then);
}

template <class Model, class F>
void for_each_linear(Model& model, F&& f) {
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i)
    for (const char* name : kLinears) f(model.layer_linear(i, name));
}

// A new parameter of the adapter.
nn::Parameter& add(nn::ParameterStore& store, const std::string& name, std::vector<int64_t> shape) {
  nn::Parameter& p = store.add(formats::kAdapterPrefix + name, std::move(shape));
  p.added = true;
  p.adapter_name = p.name;
  return p;
}

std::vector<nn::Adapter> slots_of(nn::ParameterStore& store, const nn::Linear& layer, const LoraConfig& config) {
  std::vector<nn::ParameterStore::Spec> downs;
  std::vector<nn::Adapter> adapters;
  int64_t begin = 0;
  for (const nn::Parameter* weight : layer.weights) {
    const std::string module = module_of(weight->name);
    const int64_t out = weight->shape[0], in = weight->shape[1];
    if (config.targets(module)) {
      const int64_t rank = config.rank_of(module);
      downs.push_back({formats::kAdapterPrefix + module + ".lora_A.weight", {rank, in}});
      nn::Parameter& up = add(store, module + ".lora_B.weight", {out, rank});
      nn::Parameter* magnitude = config.use_dora ? &add(store, module + ".lora_magnitude_vector", {out}) : nullptr;
      adapters.push_back({nullptr, &up, static_cast<float>(config.scale_of(module)), begin, magnitude});
    }
    begin += out;
  }
  if (adapters.empty()) return adapters;
  const std::vector<nn::Parameter*> a = store.add_group(downs);
  for (size_t i = 0; i < adapters.size(); ++i) {
    adapters[i].a = a[i];
    a[i]->added = true, a[i]->adapter_name = a[i]->name;
  }
  return adapters;
}

void declare_tables(const Decoder& model, nn::ParameterStore& store, const LoraConfig& config, AdapterSlots& slots) {
  const int64_t vocab = model.config().vocab_size, d = model.config().hidden_size;
  for (const char* module : {kEmbedding, kHead}) {
    if (!config.targets(module)) continue;
    if (config.use_dora) refuse("use_dora is for modules of the layers; {} in lora_target can have plain LoRA only. Leave one of the two out", module);
    if (module == kHead && model.config().num_labels > 0) refuse("lora_target: a model that scores sequences has no lm_head; its score is trained as a whole");
    if (module == kHead && model.config().norm_head)
      refuse("lora_target: the lm_head of this family normalises its rows and cannot have an adapter; train it as a whole with additional_target (modules_to_save)");
    const int64_t rank = config.rank_of(module);
    const auto scale = static_cast<float>(config.scale_of(module));
    if (module == kEmbedding) {
      nn::Parameter& a = add(store, std::string(module) + ".lora_embedding_A", {vocab, rank});
      slots.embedding = nn::Adapter{&a, &add(store, std::string(module) + ".lora_embedding_B", {d, rank}), scale};
      a.is_table = true;
    } else {
      nn::Parameter& a = add(store, std::string(module) + ".lora_A.weight", {rank, d});
      nn::Parameter& b = add(store, std::string(module) + ".lora_B.weight", {vocab, rank});
      slots.head = nn::Adapter{&a, &b, scale};
      b.is_table = true;
    }
  }
}

bool is_whole(const AdapterSlots& slots, const nn::Parameter& p) {
  return std::any_of(slots.whole.begin(), slots.whole.end(), [&](const auto& w) { return w.first == &p; });
}

void find_whole_modules(const nn::ParameterStore& store, const LoraConfig& config, AdapterSlots& slots) {
  for (const std::string& key : config.modules_to_save) {
    LoraConfig one;
    one.modules_to_save = {key};
    bool found = false;
    for (const auto& p : store.all())
      if (!p->added && one.saves(module_of(p->name))) {
        found = true;
        if (!is_whole(slots, *p)) slots.whole.emplace_back(p.get(), formats::kAdapterPrefix + p->name);
      }
    if (!found) refuse("modules_to_save (additional_target): the model has no module \"{}\"; among others it has embed_tokens, norm and, untied, lm_head", key);
  }
}

void find_biases(const nn::ParameterStore& store, const LoraConfig& config, AdapterSlots& slots) {
  if (config.bias == "none") return;
  for (const auto& p : store.all()) {
    if (p->added || is_whole(slots, *p) || !p->name.ends_with(".bias")) continue;
    const std::string module = module_of(p->name);
    if (config.targets(module)) slots.whole.emplace_back(p.get(), formats::base_layer_name(p->name));
    else if (config.bias == "all") slots.whole.emplace_back(p.get(), formats::kAdapterPrefix + p->name);
  }
}

// Where an adapter is on embedding or head, PEFT saves their own weight too: the base's, which is not to be replaced.
bool holds(const formats::TensorFile& file, const formats::TensorInfo& copy, const nn::Parameter& p) {
  std::vector<float> theirs(static_cast<size_t>(copy.count()));
  file.read(copy, DType::f32, theirs.data());
  const std::vector<float> ours = floats_of(*p.device, p.weight);
  bool same = copy.shape == p.shape;
  for (size_t i = 0; same && i < ours.size(); ++i) same = std::abs(theirs[i] - ours[i]) <= 1.0f / 128 * std::abs(ours[i]) + 1e-6f;
  if (!same) refuse("{}: \"{}\" is not what the base model has; the adapter belongs to another base, or to one whose vocabulary was changed before", file.path().string(), copy.name);
  return same;
}

}  // namespace

void grow_vocabulary(DecoderConfig& architecture, int64_t rows) {
  if (rows <= architecture.vocab_size) return;
  if (architecture.stored_vocab_size == 0) architecture.stored_vocab_size = architecture.vocab_size;
  architecture.vocab_size = rows;
}

void grow_vocabulary(DecoderConfig& architecture, const fs::path& adapter) {
  const auto file = formats::open_adapter(adapter);
  const auto rows = [&](const char* module) {
    const auto* info = file->find(fmt::format("{}{}.weight", formats::kAdapterPrefix, module));
    return info && info->shape.size() == 2 ? info->shape[0] : 0;
  };
  const int64_t embedding = rows(kEmbedding), head = rows(kHead);
  if (std::max(embedding, head) <= architecture.vocab_size) return;
  if (embedding != head && architecture.num_labels == 0)
    refuse("{}: embed_tokens has {} rows and lm_head {} (0: the adapter does not save it), the base model has {}; a vocabulary grows in both",
           adapter.string(), embedding, head, architecture.vocab_size);
  grow_vocabulary(architecture, embedding);
}

void check_finite(const formats::TensorFile& file, const formats::TensorInfo& tensor, std::span<const float> values) {
  if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
    fail("{}: tensor \"{}\" holds a number that is not finite: the adapter is damaged, or its training diverged. Use another checkpoint", file.path().string(), tensor.name);
}

std::vector<float> turned(const std::vector<float>& values, int64_t rows) {
  const auto n = static_cast<size_t>(rows), d = values.size() / n;
  std::vector<float> out(values.size());
  for (size_t r = 0; r < n; ++r)
    for (size_t c = 0; c < d; ++c) out[c * n + r] = values[r * d + c];
  return out;
}

void store(nn::Parameter& p, const std::vector<float>& values) {
  if (p.is_quantized())
    return quantize(p, [&](int64_t first, int64_t n, float* out) {
      std::copy_n(values.begin() + first * p.quantized.cols, n * p.quantized.cols, out);
    });
  p.set(0, values);
}

std::set<std::string> module_kinds(const Decoder& model) {
  std::set<std::string> names;
  for (const std::string& m : linear_modules(model)) names.insert(m.substr(m.rfind('.') + 1));
  return names;
}

std::vector<std::string> linear_modules(const Decoder& model) {
  std::vector<std::string> modules;
  for_each_linear(model, [&](const nn::Linear& l) {
    for (const nn::Parameter* p : l.weights) modules.push_back(module_of(p->name));
  });
  return modules;
}

AdapterSlots declare_slots(Decoder& model, nn::ParameterStore& store, const LoraConfig& config) {
  AdapterSlots slots;
  const size_t before = store.all().size();
  declare_tables(model, store, config, slots);
  for_each_linear(model, [&](nn::Linear& l) {
    if (auto adapters = slots_of(store, l, config); !adapters.empty()) slots.linears.emplace_back(&l, std::move(adapters));
  });
  const bool wanted = !config.target_modules.empty() || !config.target_pattern.empty();
  if (wanted && store.all().size() == before)
    refuse("lora_target (target_modules): {} finds no module; the layers have {}",
           config.target_pattern.empty() ? fmt::format("{}", fmt::join(config.target_modules, ", ")) : config.target_pattern, fmt::join(module_kinds(model), ", "));
  find_whole_modules(model.parameters(), config, slots);
  find_biases(model.parameters(), config, slots);
  return slots;
}

void attach_adapter(Decoder& model, const LoraConfig& config) {
  AdapterSlots slots = declare_slots(model, model.parameters(), config);
  for (auto& [layer, adapters] : slots.linears) layer->adapters = std::move(adapters);
  model.embedding_adapter() = slots.embedding;
  model.head().adapt(slots.head);
  for (const auto& [p, name] : slots.whole) p->adapter_name = name;
}

void add_beginnings(Decoder& model) {
  std::vector<nn::ParameterStore::Spec> specs;
  for (const auto& p : model.parameters().all())
    if (p->added && !p->is_vector()) specs.push_back({beginning_name(*p), p->shape});
  for (const auto& spec : specs) {
    nn::Parameter& p = model.parameters().add(spec.name, spec.shape);
    p.added = true;
    p.trainable = false;
  }
}

nn::Parameter* beginning_of(const Decoder& model, const nn::Parameter& parameter) {
  return parameter.added ? model.parameters().find(beginning_name(parameter)) : nullptr;
}

LoraConfig with_beginnings(LoraConfig config) {
  // The scale stays: alpha/r, or alpha/√r.
  const double factor = config.use_rslora ? std::sqrt(2.0) : 2.0;
  config.r *= 2;
  config.alpha *= factor;
  for (auto& [name, rank] : config.rank_pattern) rank *= 2;
  for (auto& [name, alpha] : config.alpha_pattern) alpha *= factor;
  return config;
}

bool unties(const DecoderConfig& architecture, const LoraConfig& config) {
  const auto changes = [&](const char* module) { return config.saves(module) || config.targets(module); };
  return architecture.tie_word_embeddings && (changes(kHead) || changes(kEmbedding));
}

void untie(DecoderConfig& architecture) {
  architecture.tie_word_embeddings = false;
  architecture.head_from_embedding = true;
}

void load_adapter(Decoder& model, const fs::path& directory) { load_adapter(model.parameters(), model, directory); }

void load_adapter(const nn::ParameterStore& parameters, Decoder& model, const fs::path& directory) {
  const auto file = formats::open_adapter(directory);
  std::set<std::string> unused;
  for (const auto& t : file->tensors()) unused.insert(t.name);
  for (const auto& p : parameters.all()) {
    if (p->adapter_name.empty()) continue;
    const formats::TensorInfo* info = file->find(p->adapter_name);
    if (!info) fail("{}: tensor \"{}\" is missing, which adapter_config.json asks for", file->path().string(), p->adapter_name);
    nn::Parameter* beginning = beginning_of(model, *p);
    const std::vector<int64_t> shape = beginning ? joined_shape(*p) : saved_shape(*p);
    if (info->shape != shape)
      fail("{}: tensor \"{}\" has shape [{}], the model and adapter_config.json ask for [{}]. The adapter belongs to another base model",
           file->path().string(), info->name, fmt::join(info->shape, ", "), fmt::join(shape, ", "));
    std::vector<float> values(static_cast<size_t>(info->count()));
    file->read(*info, DType::f32, values.data());
    check_finite(*file, *info, values);
    if (beginning) split(values, *p, *beginning);
    else store(*p, is_transposed(*p) ? turned(values, shape[0]) : values);
    unused.erase(p->adapter_name);
  }
  for (const nn::Parameter* p : {&model.embedding(), &model.head_weight()})
    if (const auto* copy = file->find(formats::base_layer_name(p->name)); copy && holds(*file, *copy, *p)) unused.erase(copy->name);
  if (!unused.empty())
    fail("{}: holds {} tensors that have no place in this model, first \"{}\". The adapter belongs to another base model, or uses a feature "
         "that is not supported", file->path().string(), unused.size(), *unused.begin());
}

std::vector<formats::TensorSource> adapter_sources(const Decoder& model, DType dtype) {
  std::vector<formats::TensorSource> sources;
  for (const auto& p : model.parameters().all()) {
    if (p->adapter_name.empty()) continue;
    const Tensor& t = p->stepped();
    if (is_transposed(*p)) {
      formats::TensorSource source{p->adapter_name, saved_shape(*p), nullptr, DType::f32, dtype};
      source.make = [p = p.get(), dtype](uint64_t first, uint64_t n, void* out) {
        convert(turned(floats_of(*p->device, p->stepped()), p->shape[0]).data() + first, DType::f32, out, dtype, n);
      };
      sources.push_back(std::move(source));
      continue;
    }
    if (const nn::Parameter* beginning = beginning_of(model, *p)) {
      formats::TensorSource source{p->adapter_name, joined_shape(*p), nullptr, DType::f32, dtype};
      source.make = [p = p.get(), beginning, dtype](uint64_t first, uint64_t n, void* out) {
        convert(joined(*p, *beginning).data() + first, DType::f32, out, dtype, n);
      };
      sources.push_back(std::move(source));
      continue;
    }
    sources.push_back({p->adapter_name, p->shape, t.data, t.dtype, dtype});
    sources.back().device = p->device;
  }
  return sources;
}

void save_adapter(const fs::path& directory, const Decoder& model, const LoraConfig& config, DType dtype) {
  formats::write_safetensors(directory / "adapter_model.safetensors", adapter_sources(model, dtype));
  write_file(directory / "adapter_config.json", formats::lora_config_json(config).dump(2) + "\n");
}

}  // namespace attune::models
