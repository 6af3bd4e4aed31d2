#include "text/unigram_model.h"

#include <algorithm>

#include "text/unicode.h"
#include "util/error.h"

namespace attune::text {
namespace {

constexpr double kUnknownPenalty = 10;
// Bounds the work per byte of text; real pieces have less than a hundred bytes.
constexpr size_t kLongestPiece = 1024;

}  // namespace

void UnigramModel::set_score(TokenId id, double score) {
  const auto index = static_cast<size_t>(id);
  if (index >= scores_.size()) {
    scores_.resize(index + 1);
    in_text_.resize(index + 1);
    user_defined_.resize(index + 1);
  }
  scores_[index] = score;
  in_text_[index] = true;
}

void UnigramModel::set_user_defined(TokenId id) {
  set_score(id, 0);
  user_defined_[static_cast<size_t>(id)] = true;
}

void UnigramModel::finish(const std::vector<TokenId>& forbidden) {
  std::vector<bool> left_out(scores_.size());
  for (TokenId id : forbidden)
    if (id >= 0 && static_cast<size_t>(id) < left_out.size()) left_out[static_cast<size_t>(id)] = true;
  bool any = false;
  double lowest = 0;
  std::vector<std::pair<std::string_view, int32_t>> entries;
  for (size_t i = 0; i < scores_.size(); ++i) {
    if (!in_text_[i]) continue;
    const std::string& piece = vocabulary_.token(static_cast<TokenId>(i));
    if (!user_defined_[i]) {
      lowest = any ? std::min(lowest, scores_[i]) : scores_[i];
      highest_ = std::max(highest_, scores_[i]);
      any = true;
    }
    if (left_out[i] || piece.empty()) continue;
    if (piece.size() > kLongestPiece)
      fail("{}: a piece has {} bytes, the limit is {}", options_.where, piece.size(), kLongestPiece);
    entries.emplace_back(piece, static_cast<int32_t>(i));
  }
  if (!lowest_) lowest_ = lowest;
  trie_.build(std::move(entries));
  find_byte_tokens(vocabulary_, of_byte_);
}

double UnigramModel::score_of(TokenId id, size_t bytes) const {
  if (!user_defined_[static_cast<size_t>(id)]) return scores_[static_cast<size_t>(id)];
  return static_cast<double>(static_cast<float>(bytes) * static_cast<float>(highest_)) - 0.1;
}

// Viterbi, left to right. Ties go to the piece that begins first, as in both reference libraries.
template <class Score>
void UnigramModel::encode_uncached(std::string_view word, std::vector<WordToken>& out) const {
  std::vector<Step<Score>> best(word.size() + 1);
  const Score unknown_score = static_cast<Score>(*lowest_) - static_cast<Score>(kUnknownPenalty);
  auto offer = [&](size_t begin, size_t end, TokenId id, Score score) {
    Step<Score>& step = best[end];
    if (step.begin != kNone && !(score > step.score)) return;
    step = {score, id, static_cast<uint32_t>(begin)};
  };
  for (size_t at = 0; at < word.size();) {
    const Score so_far = best[at].score;
    const size_t bytes = code_point_at(word, at).bytes;
    bool single = false;
    trie_.prefixes(word.substr(at), [&](size_t length, TokenId id) {
      offer(at, at + length, id, static_cast<Score>(score_of(id, length)) + so_far);
      single |= length == bytes;
    });
    if (!single) offer(at, at + bytes, -1, unknown_score + so_far);
    at += bytes;
  }
  const size_t from = out.size();
  for (size_t end = word.size(); end > 0; end = best[end].begin) {
    const Step<Score>& step = best[end];
    const auto bytes = static_cast<uint32_t>(end) - step.begin;
    if (step.id < 0 && out.size() > from && out.back().id < 0) {  // a run of unknown characters is one
      out.back() = {-1, step.begin, bytes + out.back().bytes};
    } else {
      out.push_back({step.id, step.begin, bytes});
    }
  }
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(from), out.end());
  const std::vector<WordToken> found(out.begin() + static_cast<std::ptrdiff_t>(from), out.end());
  out.resize(from);
  for (const WordToken& token : found) emit(word, token, out);
}

void UnigramModel::emit(std::string_view word, WordToken token, std::vector<WordToken>& out) const {
  if (token.id >= 0) {
    out.push_back(token);
    return;
  }
  const std::string_view text = word.substr(token.begin, token.bytes);
  const bool falls_back = options_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
                            return of_byte_[static_cast<uint8_t>(c)] >= 0;
                          });
  if (falls_back) {
    for (uint32_t i = 0; i < token.bytes; ++i)
      out.push_back({of_byte_[static_cast<uint8_t>(text[i])], token.begin + i, 1});
    return;
  }
  if (!options_.unknown)
    fail("{}: the model has no unknown token (unk_id), and a text has characters that it does not know",
         options_.where);
  out.push_back({*options_.unknown, token.begin, token.bytes});
}

// A text that no pre-tokenizer cuts is one word: cutting it here would round the sums of scores differently.
void UnigramModel::encode_word(std::string_view word, std::vector<WordToken>& out) const {
  with_word_cache(instance_, word, out, [&] {
    options_.as_sentencepiece ? encode_uncached<float>(word, out) : encode_uncached<double>(word, out);
  });
}

}  // namespace attune::text
