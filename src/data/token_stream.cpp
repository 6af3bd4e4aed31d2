#include "data/token_stream.h"

#include <algorithm>

#include "util/error.h"
#include "util/hash.h"

namespace attune::data {
namespace {

constexpr size_t kAhead = 256;           // rows that are tokenised at a time
constexpr int64_t kRefusedRows = 1000;   // so many rows that a template refuses, and no other, are no accident

}  // namespace

TokenStream::TokenStream(TokenRequest request, const MixOptions& mixing, int64_t most_tokens, const text::Tokenizer& tokenizer, ChatSource chat)
    : request_(std::move(request)), mixing_(mixing), most_tokens_(most_tokens), tokenizer_(tokenizer), chat_source_(std::move(chat)) {
  check_mixing(mixing_, request_.sets.size());
  if (!mixing_.weights.empty()) refuse("streaming: dataset_weights counts rows that a stream does not know; mix by interleave_probs");
  if (group_size_of(request_.tokenize.kind) != 1) refuse("streaming: {} are not streamed", description_of(request_.tokenize.kind));
  if (request_.tokenize.cutoff_len < 2) refuse("cutoff_len: {} is too short; at least 2 tokens are needed", request_.tokenize.cutoff_len);
  for (const DataSet& set : request_.sets) sources_.push_back(std::make_unique<SourceReader>(set, request_.read));
  begin_.sources.resize(sources_.size());
  go_to(begin_);
}

void TokenStream::go_to(const StreamCursor& at) {
  if (at == at_) return;
  if (at.sources.size() != sources_.size()) fail("the stream has {} data sets and the place in it {}", sources_.size(), at.sources.size());
  at_ = drawn_ = at;
  rows_.clear();
  error_ = nullptr;
}

int64_t TokenStream::pass_of(const StreamCursor& cursor) const {
  const auto less = [](const auto& a, const auto& b) { return a.pass < b.pass; };
  const auto& [least, most] = std::minmax_element(cursor.sources.begin(), cursor.sources.end(), less);
  return mixing_.strategy == "interleave_under" ? most->pass : least->pass;
}

double TokenStream::epoch_of(const StreamCursor& cursor) const {
  const bool under = mixing_.strategy == "interleave_under", over = mixing_.strategy == "interleave_over";
  double sum = 0, least = 0, most = 0;
  for (size_t s = 0; s < sources_.size(); ++s) {
    const double passes = static_cast<double>(cursor.sources[s].pass) + sources_[s]->progress(cursor.sources[s]);
    least = s == 0 ? passes : std::min(least, passes);
    most = std::max(most, passes);
    sum += passes * static_cast<double>(sources_[s]->bytes());
  }
  return under ? most : over ? least : sum / static_cast<double>(bytes());
}

bool TokenStream::waits(size_t source) const {
  const bool together = mixing_.strategy == "concat" || mixing_.strategy == "interleave_once";
  return together && drawn_.sources[source].pass > pass_of(drawn_);
}

size_t TokenStream::next_source() {
  if (mixing_.strategy == "concat") {
    size_t best = 0;
    double least = 2;
    for (size_t s = 0; s < sources_.size(); ++s)
      if (const double p = sources_[s]->progress(drawn_.sources[s]); !waits(s) && p < least) least = p, best = s;
    return best;
  }
  std::vector<double> probabilities = mixing_.probabilities;
  for (size_t s = 0; s < probabilities.size(); ++s)
    if (waits(s)) probabilities[s] = 0;
  for (;;)
    if (const size_t s = turn_of(drawn_.turns++, probabilities, sources_.size(), mixing_.seed); !waits(s)) return s;
}

TokenStream::Row TokenStream::draw() {
  for (;;) {
    if (cancelled_) fail("the stream is not wanted any more");
    const size_t s = next_source();
    SourceReader::Place& place = drawn_.sources[s];
    SourceReader::Row read;
    Row row;
    if (sources_[s]->next(place, read)) {
      row.parsed = std::move(read.parsed);
      row.where = std::move(read.where);
      row.source = static_cast<int32_t>(s);
      row.behind = drawn_;
      return row;
    }
    const SourceReader::Place& begin = begin_.sources[s];
    if (place.rows == begin.rows) refuse("dataset: no row of \"{}\" is left to train on", request_.sets[s].name);
    const int64_t passes = place.pass + 1;
    place = begin;
    place.pass = passes;
  }
}

// Reads and tokenises the next rows.
void TokenStream::prepare() {
  if (error_) std::rethrow_exception(error_);
  std::vector<Row> rows;
  try {
    while (rows.size() < kAhead) rows.push_back(draw());
  } catch (...) {
    if (rows.empty() || cancelled_) throw;
    error_ = std::current_exception();
  }
  for (const Row& row : rows)
    if (!chat_ && row.parsed.bad.empty() && row.parsed.record.is_conversation()) chat_ = &chat_source_();
  std::vector<std::exception_ptr> errors(rows.size());
#pragma omp parallel for schedule(dynamic, 8)
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    if (!row.parsed.bad.empty()) continue;
    try {
      row.tokens = tokenize_row(row.parsed.record, tokenizer_, chat_, request_.tokenize);
    } catch (const Error& e) {
      row.tokens = RowResult::drop(e.what());
      row.refusal = std::make_exception_ptr(Error(e.blame(), row.where + ": " + e.what()));
    } catch (...) {
      errors[i] = std::current_exception();
    }
    row.parsed.record = {};
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  std::move(rows.begin(), rows.end(), std::back_inserter(rows_));
}

void TokenStream::add(const Row& row, StreamWindow& window) {
  ++window.rows, ++seen_;
  refused_ += row.refusal != nullptr;
  if (!first_refusal_) first_refusal_ = row.refusal;
  if (refused_ == seen_ && seen_ >= kRefusedRows) std::rethrow_exception(first_refusal_);
  if (row.behind.sources[static_cast<size_t>(row.source)].pass == 0) {
    using Action = DataReport::Action;
    if (!row.parsed.bad.empty()) window.report.add(Action::dropped, row.parsed.bad, row.where);
    else for (const auto& [action, reason] : row.parsed.notes) window.report.add(action, reason, row.where);
    for (const std::string& reason : row.tokens.reasons) window.report.add(row.tokens.dropped ? Action::dropped : Action::cut, reason, row.where);
  }
  for (const TokenizedRow& part : row.tokens.parts) window.set.add(part.ids, part.weights, row.where, row.source);
}

template <class Full>
StreamWindow TokenStream::fill(const StreamCursor& at, Full full) {
  go_to(at);
  StreamWindow w;
  w.begin = w.end = at_;
  w.epoch = epoch_of(at_);
  std::vector<std::string> names;
  for (const DataSet& set : request_.sets)
    names.push_back(std::find(names.begin(), names.end(), set.name) == names.end() ? set.name : set.files[0].string());
  w.set.set_sources(std::move(names));
  int64_t tokens = 0;
  for (bool first = true; !full(w, tokens); first = false) {
    if (rows_.empty()) {
      try {
        prepare();
      } catch (...) {
        error_ = std::current_exception();
        if (w.set.size() == 0 || cancelled_) throw;
        break;
      }
    }
    const Row& row = rows_.front();
    const int64_t pass = pass_of(row.behind);
    if (first) w.pass = pass;
    if (pass > w.pass && w.set.size() > 0) break;
    if (pass > w.pass + 1) {
      if (first_refusal_) std::rethrow_exception(first_refusal_);
      refuse("dataset: a whole pass through the data had no sample to train on: {}", w.report.summary().empty() ? row.where : w.report.summary()[0]);
    }
    add(row, w);
    for (const TokenizedRow& part : row.tokens.parts) tokens += static_cast<int64_t>(part.ids.size());
    at_ = row.behind;
    rows_.pop_front();
  }
  w.end = at_;
  w.epoch_end = epoch_of(at_);
  w.conversations = chat_ != nullptr;
  return w;
}

StreamWindow TokenStream::hold_out(int64_t rows) {
  int64_t used = 0, last = 0;
  StreamWindow w = fill(begin_, [&](const StreamWindow& so_far, int64_t) {
    used += so_far.set.size() > last;
    last = so_far.set.size();
    return used == rows;
  });
  const auto again = [](const auto& place) { return place.pass > 0; };
  if (used < rows || std::any_of(at_.sources.begin(), at_.sources.end(), again))
    refuse("val_size: the data holds fewer than {} rows that can be used, or one of its data sets is at its end with them; nothing would be left to train on", rows);
  begin_ = drawn_ = at_;
  rows_.clear();  // those that begin a pass anew began with what is held out
  error_ = nullptr;
  return w;
}

StreamWindow TokenStream::window(const StreamCursor& at, int64_t rows) {
  // A window has something to learn from, however many rows before that cannot be used.
  return fill(at, [&](const StreamWindow& w, int64_t tokens) { return w.set.size() > 0 && (w.rows >= rows || tokens >= most_tokens_); });
}

std::vector<std::string> TokenStream::files() const {
  std::vector<std::string> out;
  for (const DataSet& set : request_.sets)
    for (const fs::path& file : set.files) out.push_back(file.string());
  return out;
}

uint64_t TokenStream::bytes() const {
  uint64_t n = 0;
  for (const auto& source : sources_) n += source->bytes();
  return n;
}

std::string TokenStream::fingerprint() const {
  Hasher hasher;
  for (const auto& source : sources_) source->add_to(hasher);
  hasher.update(mixing_.strategy.data(), mixing_.strategy.size());
  hasher.update(mixing_.probabilities.data(), mixing_.probabilities.size() * sizeof(double));
  for (const auto& place : begin_.sources) hasher.update(&place.offset, sizeof place.offset);
  for (const int64_t number : {request_.read.max_samples, most_tokens_}) hasher.update(&number, sizeof number);
  return fmt::format("{:016x}", hasher.digest64());
}

}  // namespace attune::data
