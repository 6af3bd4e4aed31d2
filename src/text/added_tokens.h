// Tokens that stand outside the model's vocabulary rules: control tokens and tokens added later. They are
// found in the text before anything else happens.
#pragma once

#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/tokenizer.h"
#include "text/unicode.h"

namespace attune::text {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool single_word = false;  // matches only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  // is looked for in the normalised text
  bool special = false;
  bool in_user_text = false;  // plain vocabulary that is found this way, also inside user text

  // Runs of spaces (of code models) and words that were added are vocabulary, also inside user text; control tokens are not.
  bool is_plain_text() const;
};

// Part of a text: `token` is null for ordinary text.
struct AddedSpan {
  ByteRange range;
  const AddedToken* token = nullptr;
};

// Finds one set of tokens, leftmost and longest first, as the Hugging Face library does.
class AddedTokenFinder {
 public:
  // `content` may differ from the token's own (its normalised form).
  void add(const AddedToken* token, std::string_view content);
  bool empty() const { return tokens_.empty(); }
  // The longest token that begins at `at`, whoever wrote the text, and where it ends; null where there is
  // none.
  const AddedToken* longest(std::string_view text, size_t at, size_t& end) const {
    return longest_allowed(text, at, end, [](const AddedToken&, ByteRange) { return true; });
  }
  // Tokens whose content overlaps `user_text` (bytes of the original text) are passed over.
  std::vector<AddedSpan> split(const Section& section, std::span<const ByteRange> user_text) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int>> next;
    const AddedToken* token = nullptr;
  };
  template <class Allowed>
  const AddedToken* longest_allowed(std::string_view text, size_t at, size_t& end, Allowed allowed) const {
    const AddedToken* best = nullptr;
    int node = first_[static_cast<uint8_t>(text[at])];
    for (size_t i = at; node >= 0; ++i) {
      const Node& here = nodes_[static_cast<size_t>(node)];
      if (here.token && allowed(*here.token, ByteRange{at, i + 1})) {
        best = here.token;
        end = i + 1;
      }
      node = -1;
      if (i + 1 >= text.size()) break;
      for (const auto& [byte, next] : here.next)
        if (byte == static_cast<uint8_t>(text[i + 1])) node = next;
    }
    return best;
  }

  std::vector<Node> nodes_;
  std::vector<int> first_ = std::vector<int>(256, -1);
  std::vector<const AddedToken*> tokens_;
};

// All added tokens of a tokenizer. Later definitions of the same text replace the flags of earlier ones.
class AddedTokens {
 public:
  // Refuses two texts for one id and contents no real tokenizer has. `where` names the source.
  void add(AddedToken token, const std::string& where);
  // To be called once all tokens are there; `normalized` gives the normalised form of a token's text.
  template <class Normalize>
  void finish(Normalize normalized) {
    for (const AddedToken& token : tokens_)
      token.normalized ? in_normalized_.add(&token, normalized(token.content))
                       : in_raw_.add(&token, token.content);
  }

  const AddedTokenFinder& in_raw() const { return in_raw_; }
  const AddedTokenFinder& in_normalized() const { return in_normalized_; }
  const AddedToken* find(TokenId id) const;
  const AddedToken* find(std::string_view content) const;
  bool is_special(TokenId id) const;
  const std::deque<AddedToken>& all() const { return tokens_; }

 private:
  std::deque<AddedToken> tokens_;
  std::unordered_map<TokenId, const AddedToken*> by_id_;
  std::unordered_map<std::string, AddedToken*> by_content_;
  AddedTokenFinder in_raw_, in_normalized_;
};

bool overlaps(std::span<const ByteRange> sorted, ByteRange range);

}  // namespace attune::text
