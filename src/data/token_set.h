// Records → token sequences with loss weights, held in flat arrays.
#pragma once

#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/record.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace attune::data {

struct TokenizeOptions {
  int64_t cutoff_len = 2048;
  bool train_on_prompt = false;                // conversations
  RowKind kind = RowKind::conversation;
  bool mask_history = false;  // conversations: only the last answer is learnt; one too long loses its first turns
  // Pairs: the loss weight of answer tokens behind the length of the shorter answer (LD-DPO, https://arxiv.org/abs/2409.06411).
  float ld_alpha = 1;
};

// Channels that come with the data.
inline constexpr const char* kMargin = "margin";        // of pairs, where a row has one
inline constexpr const char* kReferenceLogp = "reference_logp";  // filled in before training (train/reference.h)
inline constexpr const char* kDesirable = "desirable";  // of judged answers: 1 or 0
inline constexpr const char* kExtraWeight = "extra_weight";  // of pairs and judged answers: the row's weight, less 1

// The loss weights of one sequence, kept as runs of equal ones: an answer is one run, whatever its length.
class Weights {
 public:
  struct Run {
    int32_t end;  // behind its last token, counted in the sequence
    float weight;
  };
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = float;
    using difference_type = std::ptrdiff_t;
    using pointer = const float*;
    using reference = float;
    float operator*() const { return run_->weight; }
    Iterator& operator++() {
      if (++at_ == run_->end) ++run_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++*this;
      return before;
    }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    friend Weights;
    Iterator(const Run* run, int32_t at) : run_(run), at_(at) {}
    const Run* run_ = nullptr;
    int32_t at_ = 0;
  };

  explicit Weights(std::span<const Run> runs) : runs_(runs) {}
  size_t size() const { return runs_.empty() ? 0 : static_cast<size_t>(runs_.back().end); }
  float operator[](size_t j) const;
  Iterator begin() const { return {runs_.data(), 0}; }
  Iterator end() const { return {nullptr, static_cast<int32_t>(size())}; }
  std::span<const Run> runs() const { return runs_; }
  // Tokens that are learnt. Nothing predicts the first one.
  int64_t labels() const;
  // One weight a token; memory is reused.
  void copy_to(std::vector<float>& out) const;

 private:
  std::span<const Run> runs_;
};

// Sequences; those of one group must share a micro-batch. Where the group size is two, samples 2i and 2i + 1 are one row:
// of a pair, the prompt with the chosen and with the rejected answer; of a judged row, the prompt with its own answer and with
// that of the next row (KTO's estimate of how far the model has moved is made of such mismatched answers).
class TokenSet {
 public:
  // How sequences are kept; the token cache writes and reads it as it is. 4 bytes a token, 8 a run of weights, 32 a sequence.
  struct Sample {
    int64_t ids_end = 0, runs_end = 0;  // behind its last in `ids` and `runs`
    int64_t line = -1;                  // -1: its place is `file` alone
    int32_t file = 0, source = 0;
  };
  struct Storage {
    std::vector<int32_t> ids;
    std::vector<Weights::Run> runs;
    std::vector<Sample> samples;
    std::vector<std::string> files, sources;
    int64_t group_size = 1;
  };

  TokenSet() = default;
  // Throws where the parts do not belong together: they may come from a file.
  explicit TokenSet(Storage storage);

  int64_t size() const { return static_cast<int64_t>(selected_ ? selection_.size() : store_.samples.size()); }
  int64_t length(int64_t i) const { return store_.samples[stored(i)].ids_end - ids_begin(stored(i)); }
  std::span<const int32_t> ids(int64_t i) const {
    return {store_.ids.data() + ids_begin(stored(i)), static_cast<size_t>(length(i))};
  }
  Weights weights(int64_t i) const { return weights_at(stored(i)); }
  // "file:line" of the row.
  std::string where(int64_t i) const;
  // Which data set the sample came from: index into `sources()`.
  int32_t source(int64_t i) const { return store_.samples[stored(i)].source; }
  const std::vector<std::string>& sources() const { return store_.sources; }
  void set_sources(std::vector<std::string> names) { store_.sources = std::move(names); }
  int64_t group_size() const { return store_.group_size; }
  int64_t groups() const { return size() / group_size(); }
  void set_group_size(int64_t size);  // of an empty set
  int64_t total_tokens() const;
  int64_t labelled_tokens() const;
  int64_t longest() const;

  void add(std::span<const int32_t> ids, std::span<const float> weights, const std::string& where, int32_t source = 0);
  // Room for so many tokens, before they are added.
  void reserve(size_t tokens) { store_.ids.reserve(tokens); }
  // Takes the groups out whose place is true; the others close up, where they are.
  TokenSet take(const std::vector<bool>& chosen);
  // From now on the set is these groups in this order; one may stand in it several times. Tokens are kept once.
  void select(const std::vector<int64_t>& groups);

  // A number beside each sample: what came with the data (kMargin, kDesirable), or what a walk over it fills in before training
  // (reference log-probabilities, advantages). One that is repeated has it once. 0 where a sample has none.
  bool has_side(const std::string& channel) const { return side_channels.count(channel) > 0; }
  float side(const std::string& channel, int64_t i) const;
  void set_side(const std::string& channel, int64_t i, float value);
  // By stored sample, so that `select` changes nothing: samples as they were added, less those that were taken out.
  std::map<std::string, std::vector<float>> side_channels;

  // Everything in the data that determines what is learnt, for checkpoints: a changed file must not be resumed silently.
  // What a walk filled in follows from it and does not count.
  std::string fingerprint() const;
  const Storage& storage() const { return store_; }

 private:
  size_t stored(int64_t i) const { return static_cast<size_t>(selected_ ? selection_[static_cast<size_t>(i)] : i); }
  int64_t ids_begin(size_t s) const { return s == 0 ? 0 : store_.samples[s - 1].ids_end; }
  int64_t runs_begin(size_t s) const { return s == 0 ? 0 : store_.samples[s - 1].runs_end; }
  Weights weights_at(size_t s) const;
  int32_t file_index(const std::string& file);

  Storage store_;
  std::vector<int64_t> selection_;  // sample → place in storage; where `selected_`
  bool selected_ = false;
};

// A conversation as tokens: shared by training, inspection and evaluation, so that what is shown is what is trained.
struct TokenizedRow {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  struct Span {
    size_t begin, end;   // token range of an answer, its closing token included
    size_t message = 0;  // which message of the conversation it is
  };
  std::vector<Span> answers;
};
TokenizedRow tokenize_conversation(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                   const text::ChatTemplate& chat, bool train_on_prompt);
// The prompt for the next answer.
std::vector<int32_t> tokenize_prompt(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                     const text::ChatTemplate& chat);

// Records → a token set, block by block, so that the text of a block can go before the next is read. Rows are tokenised in
// parallel; the result does not depend on the threads, nor on how the records are cut into blocks.
class SetTokenizer {
 public:
  SetTokenizer(const text::Tokenizer& tokenizer, const TokenizeOptions& options);
  // Appends all of `records.rows`. `chat` may be null where none of them is a conversation.
  void add(const Records& records, const text::ChatTemplate* chat);
  TokenSet& set() { return set_; }
  // Cut and dropped rows go to the report. Throws where every row was refused.
  TokenSet finish(const Records& records, DataReport& report);

 private:
  struct Judged {
    TokenizedRow tokens;
    std::string where;
    int32_t source;
    bool desirable;
    float weight;
  };
  void add_block(const Records& records, size_t begin, size_t end, const text::ChatTemplate* chat);
  // A judged row waits for the next one, whose answer stands behind its prompt in the group's second sample; the last row
  // takes the first one's.
  void add_judged(Judged row);
  void add_with_answer_of(const Judged& row, const TokenizedRow& other);
  void close_circle();

  const text::Tokenizer& tokenizer_;
  TokenizeOptions options_;
  TokenSet set_;
  DataReport report_;
  int64_t rows_ = 0, refused_ = 0;
  std::exception_ptr first_refusal_;
  std::optional<Judged> waiting_;
  TokenizedRow first_;
};
TokenSet tokenize(const Records& records, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat,
                  const TokenizeOptions& options, DataReport& report);

}  // namespace attune::data
