// Data sets that are read, mixed and tokenised as they come, for corpora that fit into no memory: a stream of windows, each a
// token set of bounded size. What is in a window is a function of the cursor it begins at: a stream goes on where it was.
//
// Within a pass each data set gives its rows in the order of its files. Whose row is next:
//   concat            the data set's of which the smallest share is behind, so that all end together
//   interleave_once   in turns; who is at its end waits for the others
//   interleave_under  in turns; who is at its end begins anew. A pass ends with the first data set that does,
//   interleave_over   with the last
// A window holds rows of one pass.
#pragma once

#include <atomic>
#include <deque>
#include <memory>

#include "data/mixing.h"
#include "data/source_reader.h"
#include "data/tokenize_row.h"
#include "data/tokenized.h"

namespace attune::data {

struct StreamCursor {
  std::vector<SourceReader::Place> sources;
  uint64_t turns = 0;  // taken
  bool operator==(const StreamCursor&) const = default;
};

struct StreamWindow {
  TokenSet set;
  DataReport report;     // of the first pass: rows that are not simply used
  int64_t rows = 0;      // read
  int64_t pass = 0;
  bool conversations = false;  // whether a chat template was needed so far
  StreamCursor begin, end;
  double epoch = 0, epoch_end = 0;  // passes behind its first row, and behind its last
};

class TokenStream {
 public:
  // A window ends with the row that makes it so large; `chat` as for tokenize_data_sets.
  TokenStream(TokenRequest request, const MixOptions& mixing, int64_t most_tokens, const text::Tokenizer& tokenizer, ChatSource chat);

  // The first rows, of which so many can be used. The stream begins behind them, in every pass. Before any window.
  StreamWindow hold_out(int64_t rows);
  const StreamCursor& begin() const { return begin_; }
  // Up to `rows` rows behind `at`, more where none of these can be used. Throws where a file cannot be read on; what stands before that comes in a window first.
  StreamWindow window(const StreamCursor& at, int64_t rows);
  // Makes a call of `window` in another thread end soon, by throwing.
  void cancel() { cancelled_ = true; }

  std::vector<std::string> files() const;
  uint64_t bytes() const;
  // Of the files' names, sizes and ends, and of how they are mixed.
  std::string fingerprint() const;

 private:
  // A row that was read and tokenised, and the cursor behind it.
  struct Row {
    RowParser::Parsed parsed;
    RowResult tokens;
    std::string where;
    int32_t source = 0;
    StreamCursor behind;
    std::exception_ptr refusal;  // of its template
  };
  int64_t pass_of(const StreamCursor& cursor) const;
  double epoch_of(const StreamCursor& cursor) const;
  bool waits(size_t source) const;
  size_t next_source();
  Row draw();
  void prepare();
  void go_to(const StreamCursor& at);
  template <class Full>
  StreamWindow fill(const StreamCursor& at, Full full);
  void add(const Row& row, StreamWindow& window);

  TokenRequest request_;
  MixOptions mixing_;
  int64_t most_tokens_;
  const text::Tokenizer& tokenizer_;
  ChatSource chat_source_;
  const text::ChatTemplate* chat_ = nullptr;
  std::vector<std::unique_ptr<SourceReader>> sources_;
  StreamCursor begin_;
  StreamCursor at_, drawn_;  // before the first and behind the last of `rows_`
  std::deque<Row> rows_;
  std::exception_ptr error_;  // that was met behind them
  int64_t seen_ = 0, refused_ = 0;
  std::exception_ptr first_refusal_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace attune::data
