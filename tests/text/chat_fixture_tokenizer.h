// A tokenizer that knows nothing but special tokens; enough for templates.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace attune::text::chat_test {

class SpecialsOnly : public Tokenizer {
 public:
  explicit SpecialsOnly(std::vector<std::string> specials, bool adds_bos = false, std::string bos = "<s>",
                        std::string eos = "</s>")
      : specials_(std::move(specials)), adds_bos_(adds_bos) {
    bos_ = token_to_id(bos);
    eos_ = token_to_id(eos);
  }
  void set_template(std::string source) { chat_template_ = std::move(source); }

  Encoding encode(std::string_view, const EncodeOptions& options) const override {
    Encoding out;
    if (adds_bos_ && options.add_special_tokens) out.ids.push_back(*bos_);
    return out;
  }
  std::string decode(std::span<const TokenId>, bool) const override { return ""; }
  std::string token_bytes(TokenId id) const override { return specials_[id]; }
  std::optional<TokenId> token_to_id(std::string_view token) const override {
    const auto found = std::find(specials_.begin(), specials_.end(), token);
    if (found == specials_.end()) return std::nullopt;
    return static_cast<TokenId>(found - specials_.begin());
  }
  std::string id_to_token(TokenId id) const override { return specials_.at(id); }
  bool is_special(TokenId) const override { return true; }
  int64_t vocab_size() const override { return static_cast<int64_t>(specials_.size()); }

 private:
  std::vector<std::string> specials_;
  bool adds_bos_;
};

inline std::vector<std::string> all_specials() {
  return {"<s>",
          "</s>",
          "<pad>",
          "<unk>",
          "<|im_start|>",
          "<|im_end|>",
          "<|start_header_id|>",
          "<|end_header_id|>",
          "<|eot_id|>",
          "<|end|>",
          "<|user|>",
          "<|assistant|>",
          "<|system|>",
          "<|observation|>",
          "<start_of_turn>",
          "<end_of_turn>",
          "<｜User｜>",
          "<｜Assistant｜>",
          "<｜end▁of▁sentence｜>",
          "<|START_OF_TURN_TOKEN|>",
          "<|END_OF_TURN_TOKEN|>",
          "<|USER_TOKEN|>",
          "<|CHATBOT_TOKEN|>",
          "<|SYSTEM_TOKEN|>"};
}

}  // namespace attune::text::chat_test
