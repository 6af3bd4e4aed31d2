// Records → token sequences with loss weights, held in flat arrays.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "data/record.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace attune::data {

struct TokenizeOptions {
  int64_t cutoff_len = 2048;
  bool train_on_prompt = false;
  bool pretraining = false;
  bool mask_history = false;  // only the last answer of a conversation is learnt; one too long loses its first turns
};

// Sequences; those of one group must share a micro-batch (one for SFT, two for preferences …).
class TokenSet {
 public:
  int64_t size() const { return static_cast<int64_t>(selected_ ? selection_.size() : offsets_.size() - 1); }
  int64_t length(int64_t i) const { return offsets_[stored(i) + 1] - offsets_[stored(i)]; }
  std::span<const int32_t> ids(int64_t i) const { return {ids_.data() + offsets_[stored(i)], static_cast<size_t>(length(i))}; }
  std::span<const float> weights(int64_t i) const { return {weights_.data() + offsets_[stored(i)], static_cast<size_t>(length(i))}; }
  const std::string& where(int64_t i) const { return places_[stored(i)]; }
  // Which data set the sample came from: index into `sources`.
  int32_t source(int64_t i) const { return source_of_[stored(i)]; }
  std::vector<std::string> sources;
  int64_t total_tokens() const;
  int64_t labelled_tokens() const;
  int64_t longest() const;

  void add(std::span<const int32_t> ids, std::span<const float> weights, const std::string& where, int32_t source = 0);
  // From now on the set is these samples in this order; one may stand in it several times. Tokens are kept once.
  void select(std::vector<int64_t> samples);

  // Per-sequence numbers that a walk over the data fills in before training (reference log-probabilities, advantages).
  std::map<std::string, std::vector<float>> side_channels;

  // Everything that determines the sequences, for checkpoints: a changed data file must not be resumed silently.
  std::string fingerprint() const;

 private:
  size_t stored(int64_t i) const { return static_cast<size_t>(selected_ ? selection_[static_cast<size_t>(i)] : i); }

  std::vector<int32_t> ids_;
  std::vector<float> weights_;
  std::vector<int64_t> offsets_{0};
  std::vector<std::string> places_;
  std::vector<int32_t> source_of_;
  std::vector<int64_t> selection_;  // sample → place in storage; where `selected_`
  bool selected_ = false;
};

// A conversation as tokens: shared by training, inspection and evaluation, so that what is shown is what is trained.
struct TokenizedRow {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  struct Span {
    size_t begin, end;  // token range of an answer, its closing token included
  };
  std::vector<Span> answers;
};
TokenizedRow tokenize_conversation(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                   const text::ChatTemplate& chat, bool train_on_prompt);
// The prompt for the next answer.
std::vector<int32_t> tokenize_prompt(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                     const text::ChatTemplate& chat);

// `chat` may be null for pre-training. Cut and dropped rows go to the report.
TokenSet tokenize(const Records& records, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat,
                  const TokenizeOptions& options, DataReport& report);

}  // namespace attune::data
