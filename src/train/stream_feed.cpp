#include "train/stream_feed.h"

#include <omp.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "train/data_setup.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/log.h"

namespace attune::train {
namespace {

// Beside the tokens of windows: blocks of the files that are open, one a data set, and rows that are parsed and tokenised ahead.
constexpr uint64_t kBlockBytes = 8'000'000;

Json json_of(const data::StreamCursor& cursor) {
  Json sources = Json::array();
  for (const auto& p : cursor.sources) sources.push_back({p.pass, p.file, p.offset, p.line, p.rows});
  return {{"sources", sources}, {"turns", cursor.turns}};
}

data::StreamCursor cursor_of(const Json& json) {
  data::StreamCursor cursor;
  for (const Json& p : json.at("sources")) {
    cursor.sources.push_back({p.at(0).get<int64_t>(), p.at(1).get<int64_t>(), p.at(2).get<uint64_t>(), p.at(3).get<int64_t>(), p.at(4).get<int64_t>()});
    const auto& place = cursor.sources.back();
    if (place.pass < 0 || place.file < 0 || place.line < 1 || place.rows < 0) fail("the checkpoint's place in the stream is not in order");
  }
  cursor.turns = json.at("turns").get<uint64_t>();
  return cursor;
}

uint64_t bytes_of(const data::TokenSet& set) {
  const auto& s = set.storage();
  return s.ids.size() * sizeof s.ids[0] + s.runs.size() * sizeof s.runs[0] + s.samples.size() * sizeof s.samples[0];
}

fs::path report_file(const RunSetup& s) { return fs::path(s.config.output_dir) / "data_report.jsonl"; }

uint64_t report_size(const RunSetup& s) {
  const fs::path file = report_file(s);
  return fs::exists(file) ? fs::file_size(file) : 0;
}

}  // namespace

StreamFeed::StreamFeed(data::TokenRequest request, const data::MixOptions& mixing, int64_t buffer_size, const text::Tokenizer& tokenizer)
    : stream_(request, mixing, kMostTokens, tokenizer,
              [this, &tokenizer, name = request.chat_template, tools = request.tool_format]() -> const text::ChatTemplate& {
                if (!chat_) chat_ = text::ChatTemplate::create(name, tokenizer, tools);
                return *chat_;
              }),
      buffer_size_(buffer_size) {}

// The thread that is ahead must not be waited for longer than a block of rows takes.
StreamFeed::~StreamFeed() { stream_.cancel(); }

int64_t StreamFeed::rows_of(int64_t window) const { return std::min(buffer_size_, kFirstRows << std::min<int64_t>(window, 30)); }

void StreamFeed::begin(RunSetup& s) {
  install(stream_.window(stream_.begin(), rows_of(0)), 0, 0, s);
  fingerprint_ = fmt::format("{:016x}", hash64(s.train_set->fingerprint(), hash64(stream_.fingerprint(), static_cast<uint64_t>(buffer_size_))));
}

void StreamFeed::install(data::StreamWindow w, int64_t number, int64_t first, RunSetup& s) {
  s.chat = chat_;
  check_ids(w.set, s.architecture.vocab_size, s.config.model_name_or_path);
  s.rows_read += w.rows;
  number_ = number, first_ = first, steps_ = 0;
  rows_ = w.rows, pass_ = w.pass;
  from_ = std::move(w.begin), to_ = std::move(w.end);
  epoch_ = w.epoch, epoch_end_ = w.epoch_end;
  if (number == 0) s.report.add(w.report);
  // The batches look at the set: first they go.
  const bool arranged = s.train_batches != nullptr;
  const data::BatchingOptions batching = arranged ? s.train_batches->options() : data::BatchingOptions{};
  s.train_batches.reset();
  s.train_set = std::make_unique<data::TokenSet>(std::move(w.set));
  if (arranged) s.train_batches = std::make_unique<data::Batcher>(*s.train_set, batching);
}

void StreamFeed::go_ahead(const RunSetup& s) {
  steps_ = s.train_batches->steps_in_epoch(number_);
  if (first_ + steps_ >= s.total_steps) return;
  next_ = std::async(std::launch::async, [this, at = to_, rows = rows_of(number_ + 1)] {
    omp_set_num_threads(1);  // the others compute
    return stream_.window(at, rows);
  });
}

// Rows of a window that are not simply used, and where a pass is at its end.
void StreamFeed::tell(const data::StreamWindow& w, int64_t number, const RunSetup& s) {
  if (w.pass > pass_) info("the data is at its end: pass {} begins", w.pass + 1);
  for (const std::string& line : w.report.summary()) info("window {}: {}", number + 1, line);
  report_bytes_ = report_size(s);
  if (w.report.entries().empty()) return;
  std::ofstream out(report_file(s), std::ios::app | std::ios::binary);
  if (!(out << w.report.jsonl()).flush()) fail("{} cannot be written", report_file(s).string());
}

StreamFeed::Place StreamFeed::place_of(int64_t step, RunSetup& s) {
  if (steps_ == 0) go_ahead(s);
  while (step >= first_ + steps_) {
    // What throws leaves this window as it is: a checkpoint behind it is still to be written.
    data::StreamWindow w = next_.valid() ? next_.get() : stream_.window(to_, rows_of(number_ + 1));
    tell(w, number_ + 1, s);
    install(std::move(w), number_ + 1, first_ + steps_, s);
    go_ahead(s);
  }
  return {number_, step - first_, steps_};
}

double StreamFeed::epoch_at(int64_t step) const {
  return epoch_ + (epoch_end_ - epoch_) * static_cast<double>(step + 1 - first_) / static_cast<double>(std::max<int64_t>(1, steps_));
}

Json StreamFeed::state(int64_t done, const RunSetup& s) const {
  if (steps_ > 0 && done == first_ + steps_)
    return {{"window", number_ + 1}, {"first_update", done}, {"cursor", json_of(to_)}, {"tokens", ""}, {"report_bytes", report_size(s)}};
  return {{"window", number_}, {"first_update", first_}, {"cursor", json_of(from_)}, {"tokens", s.train_set->fingerprint()}, {"report_bytes", report_bytes_}};
}

void StreamFeed::restore(const Json& state, int64_t done, RunSetup& s) {
  const auto window = state.at("window").get<int64_t>(), first = state.at("first_update").get<int64_t>();
  if (window > 0) {
    data::StreamWindow w = stream_.window(cursor_of(state.at("cursor")), rows_of(window));
    if (const auto bytes = state.at("report_bytes").get<uint64_t>(); report_size(s) > bytes) fs::resize_file(report_file(s), bytes);
    pass_ = w.pass;
    tell(w, window, s);
    install(std::move(w), window, first, s);
  }
  go_ahead(s);
  const std::string tokens = state.at("tokens").get<std::string>();
  if (window < 0 || first < 0 || done < first_ || done > first_ + steps_) fail("the checkpoint's place in the stream is not in order");
  if (!tokens.empty() && tokens != s.train_set->fingerprint())
    refuse("the rows of this checkpoint's place in the stream are others than when it was written; the run cannot continue where it was. Restore the data, or start afresh");
}

uint64_t StreamFeed::memory_bytes(const RunSetup& s) const {
  const uint64_t held = bytes_of(*s.train_set);
  const double share = std::max(1e-9, epoch_end_ - epoch_);  // of the data that this window is
  const double of_rows = std::min(static_cast<double>(buffer_size_), static_cast<double>(rows_) / share) / static_cast<double>(std::max<int64_t>(1, rows_));
  const double of_tokens = static_cast<double>(kMostTokens) / static_cast<double>(std::max<int64_t>(1, s.train_set->total_tokens()));
  const auto window = static_cast<uint64_t>(static_cast<double>(held) * std::max(1.0, std::min(of_rows, of_tokens)));
  return 2 * window - held + kBlockBytes * (1 + to_.sources.size());
}

}  // namespace attune::train
