// Byte-level BPE as written in a Hugging Face tokenizer.json (GPT-2, Llama 3, Qwen, MiniMind …).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace attune::text {

class JsonNode;
struct TokenizerConfig;

// The tokens that a post-processor puts around a text.
struct Surround {
  std::vector<TokenId> before, after;
  // Refuses unknown types by name.
  void add(const JsonNode& node);
};

// What a converted SentencePiece model's tokenizer.json says beyond tokenizer.model.
struct SentencePieceHints {
  enum class Prefix { unknown, never, first, always } prefix = Prefix::unknown;
  bool metaspace = false;  // the prefix is left out where the text begins with a space
  std::vector<AddedToken> added;
  bool has_surround = false;
  Surround surround;
};

class ByteLevelBpe final : public Tokenizer {
 public:
  // Null where the file is of a kind that is not read here; `reason` then names the component, and `hints`
  // has what may be of use for the tokenizer.model beside it.
  static std::unique_ptr<ByteLevelBpe> load(const std::filesystem::path& file, const TokenizerConfig& config,
                                            std::string& reason, SentencePieceHints& hints);

  Encoding encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const override;
  std::string token_bytes(TokenId id) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::string id_to_token(TokenId id) const override;
  bool is_special(TokenId id) const override { return added_.is_special(id); }
  int64_t vocab_size() const override { return vocab_size_; }

 private:
  void read_model(const JsonNode& model);
  void read_vocabulary(const JsonNode& vocab);
  void read_merges(const JsonNode& merges);
  void add_tokens(const JsonNode& root, const TokenizerConfig& config);
  void name_specials(const TokenizerConfig& config);
  void encode_section(const Section& section, bool continuation, Sections& sections, Encoding& out) const;
  const std::string& token_text(TokenId id) const;

  std::string where_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  AddedTokens added_;
  Surround surround_;
  int64_t vocab_size_ = 0;
};

// A token of tokenizer.json's `added_tokens`.
AddedToken read_added_token(const JsonNode& node);
// Shared by both kinds: refuses ids that would make tables far larger than the file.
void check_token_id(int64_t id, size_t tokens_in_file, const std::string& where);

}  // namespace attune::text
