// A tokenizer with ChatML's control tokens, and what of a row is learnt.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/token_set.h"
#include "support/workspace.h"

namespace attune::test {

inline constexpr int32_t kImStart = 700, kImEnd = 701;

// The fixtures' byte-level tokenizer with ChatML's control tokens.
inline std::unique_ptr<text::Tokenizer> chatml_tokenizer() {
  static const Workspace work;
  static const bool written = [] {
    Json json = read_json(fs::path(ATTUNE_FIXTURES) / "tokenizers/base.json");
    for (const auto& [text, id] : {std::pair{"<|im_start|>", kImStart}, {"<|im_end|>", kImEnd}})
      json["added_tokens"].push_back({{"id", id}, {"content", text}, {"single_word", false}, {"lstrip", false},
                                      {"rstrip", false}, {"normalized", false}, {"special", true}});
    work.write("tokenizer.json", json.dump());
    work.write("tokenizer_config.json", R"({"eos_token":"<|end|>"})");
    return true;
  }();
  EXPECT_TRUE(written);
  return text::Tokenizer::load(work.path());
}

// The learnt parts of a row as texts, control tokens written out.
inline std::vector<std::string> learnt(const text::Tokenizer& tokenizer, std::span<const int32_t> ids, std::span<const float> weights) {
  std::vector<std::string> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (weights[i] == 0) continue;
    if (i == 0 || weights[i - 1] == 0) out.emplace_back();
    out.back() += tokenizer.is_special(ids[i]) ? tokenizer.id_to_token(ids[i]) : tokenizer.token_bytes(ids[i]);
  }
  return out;
}
inline std::vector<std::string> learnt(const text::Tokenizer& tokenizer, std::span<const int32_t> ids, const data::Weights& weights) {
  return learnt(tokenizer, ids, std::vector<float>(weights.begin(), weights.end()));
}

}  // namespace attune::test
