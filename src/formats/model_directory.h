// A Hugging Face model directory: config.json, weights (safetensors or torch's pytorch_model.bin, one file or shards with
// an index; safetensors where there are both), tokenizer files.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "util/json.h"

namespace attune::formats {

class ModelDirectory {
 public:
  // Reads config.json; weights are opened when first asked for. Refuses what is not a model directory.
  explicit ModelDirectory(const fs::path& directory);
  ~ModelDirectory();

  const fs::path& path() const { return path_; }
  const Json& config() const { return *config_; }
  bool has_weights() const;

  struct Entry {
    const TensorFile* file;
    const TensorInfo* info;
  };
  const std::map<std::string, Entry>& tensors();
  // The dtype most weights are stored in.
  DType stored_dtype();

 private:
  void open_weights();
  void open_shards(const fs::path& index);
  const TensorFile& open(const std::string& name, const std::string& source);

  fs::path path_;
  std::unique_ptr<Json> config_;
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, Entry> tensors_;
  bool opened_ = false;
};

struct SaveOptions {
  const Json* config = nullptr;   // written as config.json
  fs::path companions_from;       // tokenizer, template and generation files are copied from here; may be empty
  std::string chat_template;      // saved as chat_template.jinja instead of the source's; may be empty
  uint64_t shard_bytes = 5'000'000'000;
};

// Writes weights (sharded with an index beyond shard_bytes), config.json and companions into an existing directory.
void save_model(const fs::path& directory, const std::vector<TensorSource>& tensors, const SaveOptions& options);

// The companions alone, and the chat template of `options`.
void save_companions(const fs::path& directory, const SaveOptions& options);

// Copies the files beside the weights that make a model usable: tokenizer*, vocab, merges, chat template, generation_config.
void copy_companions(const fs::path& from, const fs::path& to);

}  // namespace attune::formats
