#include "train/content.h"

#include <fmt/format.h>

#include <set>

#include "data/registry.h"
#include "formats/peft.h"
#include "util/hash.h"

namespace attune::train {
namespace {

std::string short_hash(const std::string& hashes) { return fmt::format("{:016x}", hash64(hashes)); }

}  // namespace

std::string content_of(formats::ModelDirectory& model) {
  std::set<fs::path> files{model.path() / "config.json"};
  if (model.has_weights())
    for (const auto& [name, entry] : model.tensors()) files.insert(entry.file->path());
  std::string hashes;
  for (const fs::path& file : files) hashes += hash128_file(file);
  return short_hash(hashes);
}

std::string content_of_adapter(const std::string& directory) {
  return short_hash(hash128_file(formats::open_adapter(directory)->path()) + hash128_file(fs::path(directory) / "adapter_config.json"));
}

std::string content_of_inputs(const Config& c) {
  std::string hashes;
  for (const std::string& directory : {c.model_name_or_path, c.ref_model}) {
    if (directory.empty()) continue;
    formats::ModelDirectory model(directory);
    hashes += content_of(model);
  }
  for (const std::string& directory : c.adapter_name_or_path) hashes += content_of_adapter(directory);
  for (const auto* names : {&c.dataset, &c.eval_dataset})
    for (const std::string& name : *names)
      for (const fs::path& file : data::find_data_set(name, c.dataset_dir).files) hashes += hash128_file(file);
  return short_hash(hashes);
}

}  // namespace attune::train
