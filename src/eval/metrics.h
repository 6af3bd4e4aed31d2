// How much a generated answer has of its reference: pure functions, all from 0 to 1.
//
// Chinese, Japanese kana and Korean syllables count by characters, other scripts by words; no dictionary is needed. (jieba,
// which LLaMA-Factory uses for ROUGE, cuts Chinese into words: its ROUGE is lower, because a word counts only as a whole.)
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attune::eval {

using Tokens = std::vector<std::string>;

// Without surrounding white space, byte for byte.
bool exact_match(std::string_view prediction, std::string_view reference);
std::string trimmed(std::string_view text);

// Lower-cased runs of letters and digits, every CJK character alone; all else separates. On ASCII text these are the tokens of
// the package rouge_score.
Tokens words(std::string_view text);
// SQuAD's normalisation: lower case, no punctuation, no articles, split at white space; every CJK character alone (as CMRC 2018).
Tokens answer_tokens(std::string_view text);
// Words as written, every CJK character and every other mark alone.
Tokens bleu_tokens(std::string_view text);
// Unicode characters, white space included.
Tokens characters(std::string_view text);

// Harmonic mean of precision and recall over answer_tokens; two empty answers agree.
double token_f1(std::string_view prediction, std::string_view reference);

// F1 of n-grams (n = 1, 2) and of the longest common subsequence over `words` (Lin 2004; rouge_score without stemming).
struct Rouge {
  double rouge_1 = 0, rouge_2 = 0, rouge_l = 0;
};
Rouge rouge(std::string_view prediction, std::string_view reference);

// BLEU-4 of one answer over characters with NIST's smoothing (NLTK's method 3): LLaMA-Factory's bleu-4.
double sentence_bleu_4(std::string_view prediction, std::string_view reference);

// BLEU-4 of a whole test set over `bleu_tokens`, without smoothing (Papineni et al. 2002).
class CorpusBleu {
 public:
  void add(std::string_view prediction, std::string_view reference);
  double score() const;

 private:
  std::array<int64_t, 4> matches_{}, totals_{};
  int64_t predicted_ = 0, expected_ = 0;
};

}  // namespace attune::eval
