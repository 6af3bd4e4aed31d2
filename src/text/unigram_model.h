// Unigram language model: the cut of a word whose pieces have the highest sum of log-probabilities
// (Kudo 2018, "Subword Regularization").
#pragma once

#include <string>
#include <vector>

#include "text/prefix_trie.h"
#include "text/word_model.h"

namespace attune::text {

struct UnigramOptions {
  std::optional<TokenId> unknown;  // without it a word with an unknown character is an error
  bool byte_fallback = false;      // a run of unknown characters becomes its bytes
  // How the two reference libraries differ: SentencePiece adds up in single precision, and its user-defined
  // pieces always win.
  bool as_sentencepiece = false;
  std::string where;  // for messages
};

class UnigramModel final : public WordModel {
 public:
  UnigramOptions& options() { return options_; }
  // The log-probability of a piece that is in the vocabulary. Pieces without one are never made out of text.
  void set_score(TokenId id, double score);
  void set_user_defined(TokenId id);
  // `lowest`: what unknown characters are measured by; by default the lowest of the scores.
  void set_lowest(double lowest) { lowest_ = lowest; }

  void finish(const std::vector<TokenId>& forbidden) override;
  void encode_word(std::string_view word, std::vector<WordToken>& out) const override;

 private:
  // The best cut of the text before a place ends with this piece.
  template <class Score>
  struct Step {
    Score score = 0;
    TokenId id = -1;
    uint32_t begin = kNone;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  template <class Score>
  void encode_uncached(std::string_view word, std::vector<WordToken>& out) const;
  void emit(std::string_view word, WordToken token, std::vector<WordToken>& out) const;
  double score_of(TokenId id, size_t bytes) const;

  UnigramOptions options_;
  std::vector<double> scores_;  // by id
  std::vector<bool> in_text_, user_defined_;
  std::optional<double> lowest_;
  double highest_ = 0;  // 0 even where all scores are negative, as in SentencePiece
  PrefixTrie trie_;
  TokenId of_byte_[256];
  uint64_t instance_ = new_cache_instance();
};

}  // namespace attune::text
