// What stands beside the tokenizer file: tokenizer_config.json, special_tokens_map.json, added_tokens.json
// and chat_template.jinja.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"

namespace attune::text {

struct TokenizerConfig {
  static TokenizerConfig read(const std::filesystem::path& directory);

  // Texts of the special tokens; a key that is there with null means "none".
  std::optional<std::string> bos, eos, pad, unk, cls, sep, mask;
  // Which of them a file mentions at all (another source may fill in the rest).
  bool names_bos = false, names_eos = false, names_pad = false, names_unk = false;
  std::optional<bool> add_bos, add_eos, add_prefix_space, legacy;
  // Of BERT's vocab.txt.
  std::optional<bool> do_lower_case, strip_accents, tokenize_chinese_chars;
  std::vector<AddedToken> added;                            // added_tokens_decoder, in the order of their ids
  std::vector<std::string> additional_special;              // extra special tokens by text
  std::vector<std::pair<std::string, TokenId>> added_file;  // added_tokens.json
  std::optional<TokenId> user_role, assistant_role;         // generation_config.json
  std::string chat_template;
  std::string where;  // the file, for messages
};

}  // namespace attune::text
