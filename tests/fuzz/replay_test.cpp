// The committed corpus through every fuzz target, without libFuzzer: what once was found stays fixed.
#include <gtest/gtest.h>

#include <filesystem>

#include "fuzz/targets.h"
#include "util/files.h"

namespace {

using Target = int (*)(const uint8_t*, size_t);

TEST(FuzzCorpus, EndsInAResultOrAnError) {
  using namespace attune;
  const std::pair<const char*, Target> targets[] = {{"tokenizer_json", fuzz::tokenizer_json},
                                                    {"sentencepiece_model", fuzz::sentencepiece_model},
                                                    {"chat_template", fuzz::chat_template},
                                                    {"safetensors", fuzz::safetensors},
                                                    {"torch_bin", fuzz::torch_bin},
                                                    {"records", fuzz::records},
                                                    {"config", fuzz::config},
                                                    {"token_file", fuzz::token_file}};
  for (const auto& [name, target] : targets) {
    size_t files = 0;
    for (const auto& entry : fs::directory_iterator(fs::path(ATTUNE_ROOT) / "tests/fuzz/corpus" / name)) {
      SCOPED_TRACE(entry.path().string());
      const std::string bytes = read_file(entry.path());
      EXPECT_EQ(target(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), 0);
      ++files;
    }
    EXPECT_GT(files, 0u) << name;
  }
}

}  // namespace
