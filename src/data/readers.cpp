#include "data/readers.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <nlohmann/json.hpp>

#include "data/file_rows.h"
#include "data/order.h"
#include "data/shapes.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/machine.h"
#include "util/rng.h"

namespace attune::data {
namespace {

// Rows that are read before they are handed on: enough for all threads, little beside the file.
constexpr size_t kBlockRows = 2048, kBlockBytes = 8 << 20;

// What became of one row.
struct Outcome {
  Record record;
  Notes notes;
  std::string bad;         // why it cannot be used; empty where it can
  std::string keys;        // of the row, for messages
  std::exception_ptr error;
};

// Reads the files of one data set.
class SetReader {
 public:
  SetReader(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report, const TakeRows& take)
      : set_(set), options_(options), records_(records), report_(report), take_(take) {
    const Mapping& m = set.mapping;
    if (m.explicit_columns)
      for (const auto& [column, meaning] : {std::pair{m.query, "query"}, {m.history, "history"}, {m.system, "system"}, {m.tools, "tools"}})
        if (!column.empty()) optional_.push_back({column, meaning});
    seen_ = std::vector<std::atomic<bool>>(optional_.size());
  }

  void read_file(const fs::path& file, int64_t most) {
    if (!fs::exists(file)) refuse("dataset: {} does not exist", file.string());
    if (!fs::is_regular_file(file)) refuse("dataset: {}: not a regular file", file.string());
    std::string content = attune::read_file(file, uint64_t{1} << 40);
    std::string_view view = content;
    if (view.starts_with("\xEF\xBB\xBF")) view.remove_prefix(3);
    FileRows rows = split_file(view, split_options(file));
    if (rows.kind == FileRows::Kind::text && options_.kind != RowKind::text)
      refuse("{}: plain text is for stage pt; stage {} needs {}", file.string(), stages_of(options_.kind), description_of(options_.kind));
    if (most > 0 && static_cast<int64_t>(rows.pieces.size()) > most) rows.pieces.resize(static_cast<size_t>(most));
    const auto index = static_cast<int32_t>(records_.files.size());
    records_.files.push_back(file.string());
    records_.data_set_of.push_back(static_cast<int32_t>(records_.data_sets.size()) - 1);
    usable_ = 0;
    first_reason_.clear();
    size_t done = 0;  // bytes
    for (size_t begin = 0; begin < rows.pieces.size();) {
      size_t end = begin, bytes = 0;
      while (end < rows.pieces.size() && end - begin < kBlockRows && bytes < kBlockBytes) bytes += rows.pieces[end++].text.size();
      read_block(rows, begin, end, index, content.data());
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

  // A column that the mapping names and no row has is a typing error, not an empty column.
  void check_columns() const {
    for (size_t i = 0; i < optional_.size(); ++i)
      if (!seen_[i])
        refuse("{}: no row has the column \"{}\" ({} in {}); the first row has {}", set_.files[0].string(), optional_[i].first,
               optional_[i].second, set_.mapping.where, first_keys_);
  }
  int64_t read() const { return read_; }

 private:
  SplitOptions split_options(const fs::path& file) const {
    SplitOptions split{file.string(), options_.kind == RowKind::text, known_columns()};
    const Mapping& m = set_.mapping;
    for (const std::string* column : {&m.prompt, &m.query, &m.response, &m.history, &m.system, &m.messages, &m.chosen, &m.rejected, &m.kto_tag})
      if (!column->empty()) split.known_columns.push_back(*column);
    return split;
  }

  void read_block(const FileRows& rows, size_t begin, size_t end, int32_t file, const char* content) {
    std::vector<Outcome> outcomes(end - begin);
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < outcomes.size(); ++i) {
      const FileRows::Piece& piece = rows.pieces[begin + i];
      outcomes[i].record.source = {file, piece.line};
      try {
        read_piece(rows, piece, piece.text.data() - content, outcomes[i]);
      } catch (...) {
        outcomes[i].error = std::current_exception();
      }
    }
    for (Outcome& o : outcomes) {
      if (o.error) std::rethrow_exception(o.error);
      if (first_keys_.empty()) first_keys_ = std::move(o.keys);
      const std::string where = records_.where(o.record.source);
      if (!o.bad.empty()) {
        if (first_reason_.empty()) first_reason_ = where + ": " + o.bad;
        report_.add(DataReport::Action::dropped, o.bad, where);
        continue;
      }
      ++usable_;
      for (const auto& [action, reason] : o.notes) report_.add(action, reason, where);
      records_.rows.push_back(std::move(o.record));
    }
  }

  // By many threads at once.
  void read_piece(const FileRows& rows, const FileRows::Piece& piece, int64_t offset, Outcome& out) {
    try {
      if (const size_t bad = invalid_utf8(piece.text); bad != std::string_view::npos)
        throw BadRow{fmt::format("invalid UTF-8 at byte {} of the file", offset + static_cast<int64_t>(bad))};
      const Source source = out.record.source;
      if (rows.kind == FileRows::Kind::text) out.record.text = std::string(piece.text);
      else out.record = read_json(parse_row(rows, piece, records_.where(source)), out);
      out.record.source = source;
    } catch (const BadRow& bad) {
      out.bad = bad.reason;
    }
  }

  Record read_json(const Json& row, Outcome& out) {
    if (row.is_object()) {
      for (size_t i = 0; i < optional_.size(); ++i)
        if (!seen_[i] && row.contains(optional_[i].first)) seen_[i] = true;
      if (first_keys_.empty())
        for (const auto& [key, value] : row.items()) out.keys += (out.keys.empty() ? "\"" : ", \"") + key + "\"";
    }
    return read_row(row, set_.mapping, options_.kind, out.notes);
  }

  const DataSet& set_;
  const ReadOptions& options_;
  Records& records_;
  DataReport& report_;
  const TakeRows& take_;
  std::vector<std::pair<std::string, std::string>> optional_;  // mapped columns that need not be in every row: name, meaning
  std::vector<std::atomic<bool>> seen_;                        // which of them a row had
  std::string first_keys_, first_reason_;
  int64_t read_ = 0, usable_ = 0;
};

// Where the entry of dataset_info.json says what its rows are, the stage must be one that learns from them.
void check_kind(const Mapping& m, RowKind kind) {
  const bool pairs = m.is_pairs(), judged = !m.kto_tag.empty();
  const RowKind said = pairs ? RowKind::pair : RowKind::judged;
  if ((pairs || judged) && said != kind)
    refuse("{}: \"{}\" says that it holds {}, which are for stage {}; stage {} needs {}", m.where, judged ? "kto_tag" : m.ranking ? "ranking" : "chosen",
           description_of(said), stages_of(said), stages_of(kind), description_of(kind));
  if (m.explicit_columns && kind == RowKind::text && m.formatting == Mapping::Formatting::detect && !m.response.empty())
    refuse("{}: stage pt reads plain text from the column prompt; the column response (\"{}\") would be ignored", m.where, m.response);
}

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
  check_kind(set.mapping, options.kind);
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
