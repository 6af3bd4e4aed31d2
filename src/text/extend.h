// New tokens in a tokenizer's files, as Hugging Face's add_tokens and add_special_tokens write them.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace attune::text {

struct NewToken {
  TokenId id = -1;
  std::string content;
  bool special = false;
};

// Tokens that `tokenizer` does not have yet, with the ids behind its vocabulary: first `plain` ones, then `special` ones. Refuses
// empty and overlong texts, and a special token that the vocabulary has as ordinary text.
std::vector<NewToken> new_tokens(const Tokenizer& tokenizer, const std::vector<std::string>& plain, const std::vector<std::string>& special);

// Puts them into the files of a directory: tokenizer.json, tokenizer_config.json, special_tokens_map.json and added_tokens.json, as far
// as they are there. What `tokenizer.json` says besides stays letter for letter.
void add_to_files(const std::filesystem::path& directory, const std::vector<NewToken>& tokens);

}  // namespace attune::text
