// A tokenizer as a Hugging Face tokenizer.json describes it: normalizer → pre-tokenizer → model (BPE,
// Unigram, WordPiece) → post-processor, and a decoder for the way back. Also BERT's vocab.txt, which means
// one of these.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/word_model.h"

namespace attune::text {

class JsonNode;
struct TokenizerConfig;

// The tokens that a post-processor puts around a text.
struct Surround {
  std::vector<TokenId> before, after;
  // Refuses unknown types by name.
  void add(const JsonNode& node);
};

class PipelineTokenizer final : public Tokenizer {
 public:
  // Refuses components that are not supported by name.
  static std::unique_ptr<PipelineTokenizer> load_json(const std::filesystem::path& file,
                                                      const TokenizerConfig& config);
  // BERT's vocab.txt: one piece a line.
  static std::unique_ptr<PipelineTokenizer> load_bert(const std::filesystem::path& file,
                                                      const TokenizerConfig& config);

  Encoding encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const override;
  std::string token_bytes(TokenId id) const override;
  std::string first_token_bytes(TokenId id) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::string id_to_token(TokenId id) const override;
  bool is_special(TokenId id) const override { return added_.is_special(id); }
  int64_t vocab_size() const override { return vocab_size_; }

 private:
  void read_model(const JsonNode& root);
  void add_tokens(std::vector<AddedToken> tokens, const TokenizerConfig& config);
  void name_specials(const TokenizerConfig& config);
  void finish(const TokenizerConfig& config);
  void encode_section(const Section& section, bool continuation, Sections& sections, Encoding& out) const;
  const std::string& token_text(TokenId id) const;

  std::string where_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<WordModel> model_;
  TokenDecoder decoder_;
  AddedTokens added_;
  Surround surround_;
  int64_t vocab_size_ = 0;
};

// A token of tokenizer.json's `added_tokens`.
AddedToken read_added_token(const JsonNode& node);
// Refuses ids that would make tables far larger than the file.
void check_token_id(int64_t id, size_t tokens_in_file, const std::string& where);

// The `model` of a tokenizer.json.
std::unique_ptr<WordModel> read_word_model(const JsonNode& model, bool byte_level);

}  // namespace attune::text
