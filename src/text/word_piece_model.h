// WordPiece (BERT): the longest known piece from the left, again and again; a word that does not come out
// even is unknown as a whole.
#pragma once

#include <string>
#include <vector>

#include "text/word_model.h"

namespace attune::text {

struct WordPieceOptions {
  TokenId unknown = 0;
  std::string continuing_prefix = "##";
  size_t longest_word = 100;  // in characters; longer words are unknown
};

class WordPieceModel final : public WordModel {
 public:
  WordPieceOptions& options() { return options_; }
  void finish(const std::vector<TokenId>& forbidden) override;
  void encode_word(std::string_view word, std::vector<WordToken>& out) const override;

 private:
  std::optional<WordToken> longest_piece(std::string_view word, size_t begin, std::string& buffer) const;

  WordPieceOptions options_;
  std::vector<bool> forbidden_;
  size_t longest_token_ = 0;  // bytes
};

}  // namespace attune::text
