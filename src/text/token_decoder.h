// The `decoder` of a tokenizer.json: how tokens become text again.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace attune::text {

class JsonNode;

class TokenDecoder {
 public:
  // Refuses unknown types by name.
  void add(const JsonNode& node);
  // BERT's: pieces that begin with `prefix` continue a word, others get a space before them.
  void add_word_piece(std::string prefix, bool cleanup);

  // Exactly what the reference library makes of the tokens' texts.
  std::string decode(std::vector<std::string> tokens) const;
  // The bytes of one token inside a text, and of one that begins a text (a decoder may drop its space).
  std::string token_bytes(std::string_view token, bool first) const;

 private:
  enum class Kind { byte_level, replace, byte_fallback, fuse, strip, metaspace, word_piece };
  struct Step {
    Kind kind;
    std::string find, put;       // replace; word_piece: find is the prefix; strip, metaspace: the character
    std::optional<Regex> regex;  // replace
    size_t left = 0, right = 0;  // strip: at most so many
    bool drops_first = false;    // metaspace: no space before the text
    bool cleanup = false;        // word_piece
  };
  static std::string one(const Step& step, std::string token, bool first);
  static void byte_runs(std::vector<std::string>& tokens);

  std::vector<Step> steps_;
};

}  // namespace attune::text
