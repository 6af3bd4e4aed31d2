// Text ↔ token ids, exactly as the model's own tokenizer does it. Reads a Hugging Face directory:
// `tokenizer.json` (BPE, Unigram, WordPiece), else SentencePiece `tokenizer.model` (BPE, Unigram), else
// BERT's `vocab.txt`, plus `tokenizer_config.json` where present. An unknown component is an error naming it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attune::text {

using TokenId = int32_t;

// Half-open range of bytes.
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

struct EncodeOptions {
  // Let the tokenizer add its own BOS/EOS (post-processor, add_bos_token / add_eos_token).
  bool add_special_tokens = false;
  // Ranges of the text (sorted, disjoint) whose content came from users: a special token's text inside, or
  // reaching into one, is ordinary text there.
  std::span<const ByteRange> user_text = {};
  // The text continues an earlier piece: no dummy prefix (SentencePiece) is put before it.
  bool continuation = false;
};

struct Encoding {
  std::vector<TokenId> ids;
  // Byte range in the input that each token covers; empty for tokens that the tokenizer itself added.
  std::vector<ByteRange> offsets;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Throws when the directory holds no tokenizer, or one of a kind we do not read (named in the message).
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& directory);
  static bool found_in(const std::filesystem::path& directory);
  // The files of a directory that `load` may read: what it makes is a function of their content.
  static std::vector<std::filesystem::path> files(const std::filesystem::path& directory);

  virtual Encoding encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
  // Unknown ids are refused. Byte tokens that do not form UTF-8 become U+FFFD.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const = 0;
  // The raw bytes of one token as they appear inside a text (for streaming).
  virtual std::string token_bytes(TokenId id) const = 0;

  virtual std::optional<TokenId> token_to_id(std::string_view token) const = 0;
  virtual std::string id_to_token(TokenId id) const = 0;
  virtual bool is_special(TokenId id) const = 0;
  // Highest id + 1 (models may have more embedding rows).
  virtual int64_t vocab_size() const = 0;

  // The same for the token that begins a text, where the tokenizer's own first space is dropped.
  virtual std::string first_token_bytes(TokenId id) const { return token_bytes(id); }
  // Whether the tokens behind a first one that was nothing but such a space are first ones too.
  virtual bool drops_all_first_spaces() const { return false; }
  // Bytes that form no UTF-8: one U+FFFD each (SentencePiece) instead of one per ill-formed sequence.
  virtual bool replaces_each_byte() const { return false; }

  // From tokenizer_config.json > special_tokens_map.json > tokenizer.model; empty where the model has none.
  const std::optional<TokenId>& bos_id() const { return bos_; }
  const std::optional<TokenId>& eos_id() const { return eos_; }
  const std::optional<TokenId>& pad_id() const { return pad_; }
  const std::optional<TokenId>& unk_id() const { return unk_; }
  // The tokens that open a user's and an answer's turn where the model names them by id (Baichuan 2:
  // generation_config.json, else <reserved_106> and <reserved_107>). They are special tokens.
  const std::optional<TokenId>& user_role_id() const { return user_role_; }
  const std::optional<TokenId>& assistant_role_id() const { return assistant_role_; }
  // The Jinja chat template of the directory (chat_template.jinja wins over tokenizer_config.json); may be
  // empty.
  const std::string& chat_template() const { return chat_template_; }

 protected:
  std::optional<TokenId> bos_, eos_, pad_, unk_, user_role_, assistant_role_;
  std::string chat_template_;
};

// Incremental detokenisation: returns only complete UTF-8, holds back the bytes of an unfinished character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  std::string push(TokenId id);
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool first_ = true;
  std::string pending_;
};

}  // namespace attune::text
