#include "models/merge.h"

#include <fmt/ranges.h>

#include <cmath>
#include <set>

#include "models/families/family.h"
#include "models/load.h"
#include "util/error.h"

namespace attune::models {
namespace {

constexpr std::string_view kDown = ".lora_A.weight", kUp = ".lora_B.weight", kMagnitude = ".lora_magnitude_vector",
                           kTable = ".lora_embedding_A", kTableUp = ".lora_embedding_B", kBaseLayer = ".base_layer.";

std::vector<float> read_floats(const formats::TensorFile& file, const formats::TensorInfo& info) {
  std::vector<float> out(static_cast<size_t>(info.count()));
  file.read(info, DType::f32, out.data());
  check_finite(file, info, out);
  return out;
}

// How many numbers the head of a reward model's or classifier's adapter gives.
int64_t labels_of(const fs::path& directory) {
  const auto file = formats::open_adapter(directory);
  const auto* head = file->find(fmt::format("{}score.weight", formats::kAdapterPrefix));
  return head && head->shape.size() == 2 && head->shape[0] > 0 && head->shape[0] <= 1 << 20 ? head->shape[0] : 1;
}

}  // namespace

AdapterDelta::AdapterDelta(const fs::path& directory, double weight)
    : directory_(directory), weight_(weight), config_(formats::read_lora_config(directory)), file_(formats::open_adapter(directory)) {
  for (const formats::TensorInfo& t : file_->tensors()) {
    std::string name = t.name;
    if (!name.starts_with(formats::kAdapterPrefix)) fail("{}: tensor \"{}\" does not begin with \"{}\"", file_->path().string(), name, formats::kAdapterPrefix);
    name = name.substr(std::string_view(formats::kAdapterPrefix).size());
    if (name.ends_with(kDown)) {
      read_low_rank(name.substr(0, name.size() - kDown.size()));
    } else if (name.ends_with(kTable)) {
      read_table(name.substr(0, name.size() - kTable.size()));
    } else if (name.ends_with(kUp) || name.ends_with(kMagnitude)) {
      const std::string down = name.substr(0, name.rfind(".lora_")) + std::string(kDown);
      if (!file_->find(formats::kAdapterPrefix + down)) fail("{}: tensor \"{}\" is there without its lora_A", file_->path().string(), t.name);
    } else if (name.ends_with(kTableUp)) {
      if (!file_->find(formats::kAdapterPrefix + name.substr(0, name.size() - 1) + "A")) fail("{}: tensor \"{}\" is there without its lora_embedding_A", file_->path().string(), t.name);
    } else {
      if (name.find(".lora_") != std::string::npos) refuse("{}: tensor \"{}\" belongs to a kind of adapter that is not supported", file_->path().string(), t.name);
      if (const size_t at = name.find(kBaseLayer); at != std::string::npos) name.erase(at + 1, kBaseLayer.size() - 1);
      whole_[name] = &t;
    }
  }
}

void AdapterDelta::read_low_rank(const std::string& module) {
  const auto* a = file_->find(formats::kAdapterPrefix + module + std::string(kDown));
  const auto* b = file_->find(formats::kAdapterPrefix + module + std::string(kUp));
  if (!b || a->shape.size() != 2 || b->shape.size() != 2 || a->shape[0] != b->shape[1] || a->shape[0] != config_.rank_of(module))
    fail("{}: lora_A and lora_B of {} do not belong together, or not to rank {} of adapter_config.json", file_->path().string(), module, config_.rank_of(module));
  const auto* m = file_->find(formats::kAdapterPrefix + module + std::string(kMagnitude));
  if (config_.use_dora != (m != nullptr) || (m && m->shape != std::vector<int64_t>{b->shape[0]}))
    fail("{}: use_dora in adapter_config.json asks for {}lora_magnitude_vector of {} [{}]", file_->path().string(), config_.use_dora ? "" : "no ", module, b->shape[0]);
  low_rank_[module + ".weight"] = {read_floats(*file_, *a), read_floats(*file_, *b), m ? read_floats(*file_, *m) : std::vector<float>{},
                                   a->shape[0], a->shape[1], b->shape[0], static_cast<float>(weight_ * config_.scale_of(module))};
}

// Rows of the table are turned: V·Aᵀ·Bᵀ, as if it were a linear module with B and A.
void AdapterDelta::read_table(const std::string& module) {
  const auto* a = file_->find(formats::kAdapterPrefix + module + std::string(kTable));
  const auto* b = file_->find(formats::kAdapterPrefix + module + std::string(kTableUp));
  if (!b || a->shape.size() != 2 || b->shape.size() != 2 || a->shape[0] != b->shape[1] || a->shape[0] != config_.rank_of(module))
    fail("{}: lora_embedding_A and lora_embedding_B of {} do not belong together, or not to rank {} of adapter_config.json", file_->path().string(), module,
         config_.rank_of(module));
  low_rank_[module + ".weight"] = {turned(read_floats(*file_, *b), b->shape[0]), turned(read_floats(*file_, *a), a->shape[0]), {},
                                   a->shape[0], b->shape[0], a->shape[1], static_cast<float>(weight_ * config_.scale_of(module))};
}

std::vector<std::string> AdapterDelta::names() const {
  std::set<std::string> all;
  for (const auto& [name, delta] : low_rank_) all.insert(name);
  for (const auto& [name, info] : whole_) all.insert(name);
  return {all.begin(), all.end()};
}

std::vector<std::string> AdapterDelta::replaced() const {
  std::vector<std::string> all;
  for (const auto& [name, info] : whole_) all.push_back(name);
  return all;
}

void AdapterDelta::apply(const std::string& name, const std::vector<int64_t>& shape, int64_t first, int64_t rows, float* values) const {
  const auto check = [&](const std::vector<int64_t>& own) {
    if (own != shape)
      fail("{}: {} is [{}] in the base model and [{}] in the adapter; it belongs to another base", directory_.string(), name,
           fmt::join(shape, ", "), fmt::join(own, ", "));
  };
  if (const auto it = whole_.find(name); it != whole_.end()) {
    check(it->second->shape);
    const int64_t cols = shape.back();
    file_->read(*it->second, DType::f32, static_cast<uint64_t>(first * cols), static_cast<uint64_t>(rows * cols), values);
    check_finite(*file_, *it->second, {values, static_cast<size_t>(rows * cols)});
  }
  const auto it = low_rank_.find(name);
  if (it == low_rank_.end()) return;
  const LowRank& d = it->second;
  check({d.out, d.in});
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows; ++i) {
    float* row = values + i * d.in;
    std::vector<float> sum(static_cast<size_t>(d.in));
    for (int64_t k = 0; k < d.rank; ++k) {
      const float b = d.b[static_cast<size_t>((first + i) * d.rank + k)];
      const float* a = d.a.data() + k * d.in;
      for (int64_t j = 0; j < d.in; ++j) sum[static_cast<size_t>(j)] += b * a[j];
    }
    for (int64_t j = 0; j < d.in; ++j) row[j] += d.scale * sum[static_cast<size_t>(j)];
    if (d.magnitude.empty()) continue;
    double squares = 0;
    for (int64_t j = 0; j < d.in; ++j) squares += static_cast<double>(row[j]) * row[j];
    const double gain = squares > 0 ? d.magnitude[static_cast<size_t>(first + i)] / std::sqrt(squares) : 0;
    for (int64_t j = 0; j < d.in; ++j) row[j] = static_cast<float>(row[j] * gain);
  }
}

void merge_into(Decoder& model, formats::ModelDirectory& base, const std::vector<std::string>& adapters) {
  std::vector<AdapterDelta> deltas;
  std::set<std::string> names;
  for (const std::string& directory : adapters) {
    deltas.emplace_back(directory);
    for (const std::string& name : deltas.back().names()) names.insert(name);
  }
  for (const std::string& name : names) {
    nn::Parameter* p = model.parameters().find(name);
    if (!p || p->added) refuse("{}: the base model has no tensor \"{}\"; the adapter belongs to another", fmt::join(adapters, ", "), name);
    const bool copied = p == &model.head_weight() && model.config().head_from_embedding;
    const auto& [file, info] = base.tensors().at(copied ? model.embedding().name : name);
    std::vector<float> values(static_cast<size_t>(p->count()));
    file->read(*info, DType::f32, values.data());
    for (const AdapterDelta& d : deltas) d.apply(name, p->shape, 0, p->is_vector() ? 1 : p->shape[0], values.data());
    store(*p, values);
  }
}

DecoderConfig adapted_config(const formats::ModelDirectory& base, const std::vector<std::string>& adapters) {
  DecoderConfig config = parse_config(base.config(), (base.path() / "config.json").string());
  for (const std::string& directory : adapters) {
    const formats::LoraConfig adapter = formats::read_lora_config(directory);
    // A reward model's adapter on a language model brings its own head.
    if (adapter.task_type == "SEQ_CLS" && config.num_labels == 0) score_sequences(config, labels_of(directory));
    if (unties(config, adapter)) untie(config);
    grow_vocabulary(config, directory);
  }
  return config;
}

std::unique_ptr<Decoder> declare_adapted(const formats::ModelDirectory& base, const std::vector<std::string>& adapters) {
  auto model = std::make_unique<Decoder>(adapted_config(base, adapters));
  if (!adapters.empty()) attach_adapter(*model, formats::read_lora_config(adapters.back()));
  return model;
}

void load_adapted(Decoder& model, formats::ModelDirectory& base, const std::vector<std::string>& adapters) {
  load_weights(model, base);
  if (adapters.empty()) return;
  merge_into(model, base, {adapters.begin(), adapters.end() - 1});
  load_adapter(model, adapters.back());
}

}  // namespace attune::models
