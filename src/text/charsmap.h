// SentencePiece's `precompiled_charsmap`: rewriting rules (NFKC and the like) as a double-array trie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace attune::text {

class Charsmap {
 public:
  // `blob`: the length of the trie in bytes (32 bits, little-endian), the trie, the replacements, each ended
  // by a zero byte. `where` names the source. Fails where the blob is damaged.
  Charsmap(std::string_view blob, const std::string& where);

  struct Rule {
    size_t bytes = 0;  // of the text; 0 where no rule matches
    std::string_view replacement;
  };
  Rule longest(std::string_view text) const { return find(text, true); }
  Rule shortest(std::string_view text) const { return find(text, false); }

  // As the tokenizers library does it: grapheme by grapheme.
  const Section& apply_by_grapheme(const Section& section, Sections& sections) const;

 private:
  Rule find(std::string_view text, bool longest) const;
  Rule rule(uint32_t leaf, size_t bytes) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

std::string decode_base64(std::string_view text, const std::string& where);

}  // namespace attune::text
