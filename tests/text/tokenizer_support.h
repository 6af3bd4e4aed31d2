// Small tokenizers for the tests: the fixtures keep one byte-level model and, per variant, what differs from
// it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "support/errors.h"
#include "text/tokenizer.h"
#include "util/error.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::text {

inline const fs::path kFixtures = fs::path(ATTUNE_FIXTURES) / "tokenizers";

// A directory that goes away with the test.
class TempDirectory {
 public:
  TempDirectory() {
    static int count = 0;
    path_ = fs::temp_directory_path() / fmt::format("attune_tokenizer_{}_{}", getpid(), count++);
    fs::create_directories(path_);
  }
  ~TempDirectory() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  fs::path write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  fs::path path_;
};

inline const Json& fixture(const std::string& name) {
  static std::map<std::string, Json> read;
  if (!read.contains(name)) read[name] = read_json(kFixtures / name);
  return read[name];
}

inline Json variant_json(const std::string& name) {
  Json json = fixture("base.json");
  for (const auto& [key, value] : fixture("variants.json").at(name).items())
    if (key != "model") json[key] = value;
  for (const auto& [key, value] : fixture("variants.json").at(name).at("model").items())
    json["model"][key] = value;
  return json;
}

inline std::unique_ptr<Tokenizer> load_json(const Json& tokenizer, const std::string& config = "") {
  const TempDirectory directory;
  directory.write("tokenizer.json", tokenizer.dump());
  if (!config.empty()) directory.write("tokenizer_config.json", config);
  return Tokenizer::load(directory.path());
}

inline std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& config = "") {
  const TempDirectory directory;
  directory.write("tokenizer.model", read_file(kFixtures / "sentencepiece" / "tokenizer.model"));
  if (!config.empty()) directory.write("tokenizer_config.json", config);
  return Tokenizer::load(directory.path());
}

using test::error_of;

}  // namespace attune::text
