// streaming: a run whose data comes window by window (data/token_stream.h). While one window trains, a thread of its own
// makes the next one; nothing else is held of the data.
#pragma once

#include <future>
#include <memory>

#include "data/token_stream.h"
#include "train/config.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::train {

struct RunSetup;

class StreamFeed {
 public:
  // Rows of the first window: little, so that a run begins at once. Each has twice as many as the one before, up to buffer_size.
  static constexpr int64_t kFirstRows = 2048;
  static constexpr int64_t kMostTokens = int64_t{1} << 25;

  // `tokenizer` must outlive it.
  StreamFeed(data::TokenRequest request, const data::MixOptions& mixing, int64_t buffer_size, const text::Tokenizer& tokenizer);
  ~StreamFeed();

  // The first window becomes the setup's training data.
  void begin(RunSetup& setup);
  // Brings the window that holds update `step` (from 0, never backwards) into the setup.
  struct Place {
    int64_t window, index, steps;
  };
  Place place_of(int64_t step, RunSetup& setup);
  // Passes through the data when `step` of the present window is done.
  double epoch_at(int64_t step) const;

  // What a checkpoint behind `done` updates keeps: where the window in work begins, or the next one.
  Json state(int64_t done, const RunSetup& setup) const;
  void restore(const Json& state, int64_t done, RunSetup& setup);
  // What decides the stream, as TokenSet::fingerprint does for data in memory.
  const std::string& fingerprint() const { return fingerprint_; }

  // Whether data_report.jsonl is the setup's alone so far.
  bool at_first_window() const { return number_ == 0; }
  data::TokenStream& stream() { return stream_; }
  int64_t buffer_size() const { return buffer_size_; }
  // Behind the window in work.
  const data::StreamCursor& end() const { return to_; }
  // What the windows take at most beside the first one: one in work, one ahead, the text of some rows.
  uint64_t memory_bytes(const RunSetup& setup) const;

 private:
  void install(data::StreamWindow window, int64_t number, int64_t first, RunSetup& setup);
  void tell(const data::StreamWindow& window, int64_t number, const RunSetup& setup);
  void go_ahead(const RunSetup& setup);
  int64_t rows_of(int64_t window) const;

  std::shared_ptr<text::ChatTemplate> chat_;  // once a conversation was met
  data::TokenStream stream_;
  std::future<data::StreamWindow> next_;
  int64_t buffer_size_;
  std::string fingerprint_;
  // The window in work: its number, the update it begins with, its updates (0: not counted yet).
  int64_t number_ = 0, first_ = 0, steps_ = 0;
  int64_t rows_ = 0, pass_ = 0;
  data::StreamCursor from_, to_;
  double epoch_ = 0, epoch_end_ = 0;
  uint64_t report_bytes_ = 0;  // of data_report.jsonl before this window's
};

}  // namespace attune::train
