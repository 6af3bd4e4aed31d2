// A directory of its own for a test, and tiny models that bring everything a run needs.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/families/family.h"
#include "models/load.h"
#include "support/errors.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::test {

// Goes away with the test.
class Workspace {
 public:
  Workspace() {
    static std::atomic<int> count{0};
    path_ = fs::temp_directory_path() / fmt::format("attune_test_{}_{}", ::getpid(), count++);
    fs::create_directories(path_);
  }
  ~Workspace() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Workspace(const Workspace&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  fs::path write(const std::string& name, const std::string& content) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  fs::path path_;
};

// The 512-piece SentencePiece tokenizer of the fixtures.
inline void copy_small_tokenizer(const fs::path& directory) {
  fs::create_directories(directory);
  fs::copy_file(fs::path(ATTUNE_FIXTURES) / "tokenizers/sentencepiece/tokenizer.model", directory / "tokenizer.model");
}

inline Json small_llama_config() {
  return {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"vocab_size", 512}, {"hidden_size", 32},
          {"intermediate_size", 64}, {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"max_position_embeddings", 256}, {"rms_norm_eps", 1e-5}, {"tie_word_embeddings", false},
          {"bos_token_id", 1}, {"eos_token_id", 2}, {"torch_dtype", "float32"}};
}

// A model directory with random weights and the small tokenizer.
inline fs::path make_small_model(const fs::path& directory, const Json& config = small_llama_config(), DType dtype = DType::f32) {
  copy_small_tokenizer(directory);
  models::Decoder model(models::parse_config(config, "config.json"));
  model.parameters().allocate_weights(Place::host(), dtype);
  models::initialise_weights(model, 7);
  formats::SaveOptions save;
  save.config = &config;
  formats::save_model(directory, models::tensor_sources(model, dtype), save);
  return directory;
}

// `n` alpaca rows with answers of different lengths.
inline std::string small_alpaca(int n) {
  static const char* const things[] = {"cat", "big red ball", "tree", "little girl", "dog", "sun", "mom", "park"};
  std::string out;
  for (int i = 0; i < n; ++i) {
    std::string answer = fmt::format("The {} was happy", things[i % 8]);
    for (int k = 0; k < i % 5; ++k) answer += fmt::format(" and saw a {}", things[(i + k) % 8]);
    out += dump_json({{"instruction", fmt::format("Tell me about the {} of day {}.", things[i % 8], i)}, {"output", answer + "."}}) + "\n";
  }
  return out;
}

}  // namespace attune::test
