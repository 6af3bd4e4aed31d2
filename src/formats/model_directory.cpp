#include "formats/model_directory.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/torch_file.h"
#include "util/error.h"

namespace attune::formats {
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSingle = "model.safetensors";
constexpr const char* kTorchIndex = "pytorch_model.bin.index.json";
constexpr const char* kTorchSingle = "pytorch_model.bin";

}  // namespace

ModelDirectory::ModelDirectory(const fs::path& directory) : path_(directory) {
  if (!fs::is_directory(directory))
    refuse("{}: not a directory. model_name_or_path must be a local Hugging Face model directory (config.json, "
           "*.safetensors, tokenizer files); attune does not download", directory.string());
  const fs::path file = directory / "config.json";
  if (!fs::exists(file) && fs::exists(directory / "adapter_config.json"))
    refuse("{}: holds an adapter, not a model. Name the base model here and this directory as the adapter (--adapter, adapter_name_or_path)",
           directory.string());
  if (!fs::exists(file)) refuse("{}: has no config.json; expected a Hugging Face model directory", directory.string());
  config_ = std::make_unique<Json>(parse_json(read_file(file, 16 << 20), file.string()));
  if (!config_->is_object()) refuse("{}: must hold a JSON object", file.string());
}

ModelDirectory::~ModelDirectory() = default;

bool ModelDirectory::has_weights() const {
  for (const char* name : {kIndex, kSingle, kTorchIndex, kTorchSingle})
    if (fs::exists(path_ / name)) return true;
  return false;
}

const TensorFile& ModelDirectory::open(const std::string& name, const std::string& source) {
  const fs::path file = safe_child(path_, name, source);
  if (name.ends_with(".bin")) files_.push_back(std::make_unique<TorchFile>(file));
  else files_.push_back(std::make_unique<SafetensorsFile>(file));
  return *files_.back();
}

const std::map<std::string, ModelDirectory::Entry>& ModelDirectory::tensors() {
  if (!opened_) open_weights();
  return tensors_;
}

void ModelDirectory::open_weights() {
  const char* found = nullptr;
  for (const char* name : {kIndex, kSingle, kTorchIndex, kTorchSingle})
    if (!found && fs::exists(path_ / name)) found = name;
  if (!found)
    refuse("{}: has no weights: none of {}, {}, {} and {}. Other formats (GGUF) are not read; convert them to safetensors",
           path_.string(), kSingle, kIndex, kTorchSingle, kTorchIndex);
  if (found == kIndex || found == kTorchIndex) {
    open_shards(path_ / found);
  } else {
    const TensorFile& file = open(found, path_.string());
    for (const TensorInfo& t : file.tensors()) tensors_[t.name] = {&file, &t};
  }
  opened_ = true;
}

void ModelDirectory::open_shards(const fs::path& index) {
  const Json root = read_json(index);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object())
    fail("{}: needs an object \"weight_map\" from tensor names to files", index.string());
  std::map<std::string, const TensorFile*> by_name;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string()) fail("{}: weight_map \"{}\" must name a file", index.string(), tensor);
    const std::string name = file.get<std::string>();
    if (!by_name.count(name)) by_name[name] = &open(name, index.string());
    const TensorInfo* info = by_name[name]->find(tensor);
    if (!info) fail("{}: tensor \"{}\" is said to be in {} but is not", index.string(), tensor, name);
    tensors_[tensor] = {by_name[name], info};
  }
  for (const auto& file : files_)
    for (const TensorInfo& t : file->tensors())
      if (!tensors_.count(t.name) || tensors_[t.name].file != file.get())
        fail("{}: {} holds the tensor \"{}\" that the index does not place there", index.string(),
             file->path().filename().string(), t.name);
}

DType ModelDirectory::stored_dtype() {
  std::map<std::string, uint64_t> bytes;
  for (const auto& [name, entry] : tensors()) bytes[entry.info->dtype] += entry.info->bytes;
  std::string most = "F32";
  for (const auto& [dtype, n] : bytes)
    if (n > bytes[most]) most = dtype;
  return most == "BF16" ? DType::bf16 : most == "F16" ? DType::f16 : DType::f32;
}

void copy_companions(const fs::path& from, const fs::path& to) {
  static const std::vector<std::string> names{
      "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
      "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"};
  for (const std::string& name : names) {
    const fs::path source = from / name;
    if (!fs::is_regular_file(source) || fs::exists(to / name)) continue;
    write_file(to / name, read_file(source));
  }
}

void save_model(const fs::path& directory, const std::vector<TensorSource>& tensors, const SaveOptions& options) {
  std::vector<std::vector<TensorSource>> shards(1);
  uint64_t total = 0, current = 0;
  for (const TensorSource& t : tensors) {
    if (current > 0 && current + t.bytes() > options.shard_bytes) {
      shards.emplace_back();
      current = 0;
    }
    shards.back().push_back(t);
    current += t.bytes();
    total += t.bytes();
  }
  if (shards.size() == 1) {
    write_safetensors(directory / kSingle, shards[0]);
  } else {
    Json map = Json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
      for (const TensorSource& t : shards[i]) map[t.name] = name;
      write_safetensors(directory / name, shards[i]);
    }
    Json index;
    index["metadata"]["total_size"] = total;
    index["weight_map"] = map;
    write_file(directory / kIndex, index.dump(2) + "\n");
  }
  if (options.config) write_file(directory / "config.json", options.config->dump(2) + "\n");
  save_companions(directory, options);
}

void save_companions(const fs::path& directory, const SaveOptions& options) {
  // The template that was tuned with wins over the base's own; copies do not replace what is there.
  if (!options.chat_template.empty()) write_file(directory / "chat_template.jinja", options.chat_template);
  if (!options.companions_from.empty()) copy_companions(options.companions_from, directory);
}

}  // namespace attune::formats
