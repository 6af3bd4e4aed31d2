#include "data/readers.h"

#include <algorithm>

#include "data/file_rows.h"
#include "data/order.h"
#include "data/row_parser.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/machine.h"
#include "util/rng.h"

namespace attune::data {
namespace {

// Rows that are read before they are handed on: enough for all threads, little beside the file.
constexpr size_t kBlockRows = 2048, kBlockBytes = 8 << 20;

// Reads the files of one data set.
class SetReader {
 public:
  SetReader(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report, const TakeRows& take)
      : parser_(set, options), records_(records), report_(report), take_(take) {}

  void read_file(const fs::path& file, int64_t most) {
    if (!fs::exists(file)) refuse("dataset: {} does not exist", file.string());
    if (!fs::is_regular_file(file)) refuse("dataset: {}: not a regular file", file.string());
    std::string content = attune::read_file(file, uint64_t{1} << 40);
    std::string_view view = content;
    if (view.starts_with("\xEF\xBB\xBF")) view.remove_prefix(3);
    FileRows rows = split_file(view, parser_.split_options(file));
    parser_.check_kind(rows.kind, file);
    if (most > 0 && static_cast<int64_t>(rows.pieces.size()) > most) rows.pieces.resize(static_cast<size_t>(most));
    records_.files.push_back(file.string());
    records_.data_set_of.push_back(static_cast<int32_t>(records_.data_sets.size()) - 1);
    usable_ = 0;
    first_reason_.clear();
    size_t done = 0;  // bytes
    for (size_t begin = 0; begin < rows.pieces.size();) {
      size_t end = begin, bytes = 0;
      while (end < rows.pieces.size() && end - begin < kBlockRows && bytes < kBlockBytes) bytes += rows.pieces[end++].text.size();
      read_block(rows, begin, end, content.data());
      begin = end;
      const std::string_view last = rows.pieces[end - 1].text;
      const auto behind = static_cast<size_t>(last.data() + last.size() - content.data());
      // Nothing looks back: text makes room for the tokens that come of it.
      release_memory(content.data() + done, behind - done);
      if (take_) take_(records_, behind - done);
      done = behind;
    }
    const auto read = static_cast<int64_t>(rows.pieces.size());
    read_ += read;
    records_.rows_read += read;
    if (usable_ == 0) refuse("{}: none of its {} rows can be used; the first: {}", file.string(), read, first_reason_);
  }

  void check_columns() const { parser_.check_columns(); }
  int64_t read() const { return read_; }

 private:
  void read_block(const FileRows& rows, size_t begin, size_t end, const char* content) {
    const auto index = static_cast<int32_t>(records_.files.size()) - 1;
    const auto place = [content](std::string_view text) { return static_cast<uint64_t>(text.data() - content); };
    for (RowParser::Parsed& p : parser_.parse(rows, begin, end, records_.files.back(), index, place)) {
      const std::string where = records_.where(p.record.source);
      if (!p.bad.empty()) {
        if (first_reason_.empty()) first_reason_ = where + ": " + p.bad;
        report_.add(DataReport::Action::dropped, p.bad, where);
        continue;
      }
      ++usable_;
      for (const auto& [action, reason] : p.notes) report_.add(action, reason, where);
      records_.rows.push_back(std::move(p.record));
    }
  }

  RowParser parser_;
  Records& records_;
  DataReport& report_;
  const TakeRows& take_;
  std::string first_reason_;
  int64_t read_ = 0, usable_ = 0;
};

// Nobody means more.
constexpr int64_t kMostRepeats = 1000;

// `n` of the rows behind `before`, chosen by the seed; where there are fewer, all of them several times.
void sample(Records& records, size_t before, int64_t n, uint64_t seed) {
  const auto available = static_cast<int64_t>(records.rows.size() - before);
  if (n > kMostRepeats * available) refuse("dataset: {} rows are asked for, but there are {}; each would be repeated more than {} times", n, available, kMostRepeats);
  std::vector<int64_t> copies(static_cast<size_t>(available), n / available);
  const Permutation order(available, seed, 0);
  for (int64_t i = 0; i < n % available; ++i) ++copies[static_cast<size_t>(order[i])];
  std::vector<Record> chosen;
  for (int64_t i = 0; i < available; ++i)
    chosen.insert(chosen.end(), static_cast<size_t>(copies[static_cast<size_t>(i)]), records.rows[before + static_cast<size_t>(i)]);
  records.rows.resize(before);
  std::move(chosen.begin(), chosen.end(), std::back_inserter(records.rows));
}

}  // namespace

void read_records(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report, const TakeRows& take) {
  // Rows that are still to be chosen from stay; only the progress is told.
  const bool choose = set.num_samples > 0;
  const TakeRows tell = [&](Records&, uint64_t bytes) {
    Records none;
    if (take) take(none, bytes);
  };
  SetReader reader(set, options, records, report, choose ? tell : take);
  // Two files may have one name.
  const bool taken = std::find(records.data_sets.begin(), records.data_sets.end(), set.name) != records.data_sets.end();
  records.data_sets.push_back(taken ? set.files[0].string() : set.name);
  const size_t before = records.rows.size();
  // Chosen among all rows, not among the first.
  const int64_t most = set.num_samples > 0 ? 0 : options.max_samples;
  for (const fs::path& file : set.files) {
    if (most > 0 && reader.read() >= most) break;
    reader.read_file(file, most > 0 ? most - reader.read() : 0);
  }
  reader.check_columns();
  if (set.num_samples > 0) {
    const int64_t n = options.max_samples > 0 ? std::min(set.num_samples, options.max_samples) : set.num_samples;
    sample(records, before, n, mix_key(options.seed, hash64(set.name)));
    if (take) take(records, 0);
  }
}

void read_records(const std::filesystem::path& file, const ReadOptions& options, Records& records, DataReport& report) {
  read_records(DataSet{file.stem().string(), {file}, {}, 0}, options, records, report);
}

}  // namespace attune::data
