#include "data/readers.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/file_rows.h"
#include "data/order.h"
#include "data/shapes.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::data {
namespace {

// Reads the files of one data set.
class SetReader {
 public:
  SetReader(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report)
      : set_(set), options_(options), records_(records), report_(report) {
    const Mapping& m = set.mapping;
    if (m.explicit_columns)
      for (const auto& [column, meaning] : {std::pair{m.query, "query"}, {m.history, "history"}, {m.system, "system"}, {m.tools, "tools"}})
        if (!column.empty()) unseen_.push_back({column, meaning});
  }

  void read_file(const fs::path& file, int64_t most) {
    if (!fs::exists(file)) refuse("dataset: {} does not exist", file.string());
    if (!fs::is_regular_file(file)) refuse("dataset: {}: not a regular file", file.string());
    const std::string content = attune::read_file(file, uint64_t{1} << 40);
    std::string_view view = content;
    if (view.starts_with("\xEF\xBB\xBF")) view.remove_prefix(3);
    const FileRows rows = split_file(view, split_options(file));
    if (rows.kind == FileRows::Kind::text && !options_.pretraining)
      refuse("{}: plain text is for stage pt; stage sft needs rows with questions and answers", file.string());
    const auto index = static_cast<int32_t>(records_.files.size());
    records_.files.push_back(file.string());
    records_.data_set_of.push_back(static_cast<int32_t>(records_.data_sets.size()) - 1);
    const size_t before = records_.rows.size();
    first_reason_.clear();
    int64_t read = 0;
    for (const FileRows::Piece& piece : rows.pieces) {
      if (most > 0 && read >= most) break;
      ++read;
      read_piece(rows, piece, {index, piece.line}, piece.text.data() - content.data());
    }
    read_ += read;
    records_.rows_read += read;
    if (records_.rows.size() == before)
      refuse("{}: none of its {} rows can be used; the first: {}", file.string(), read, first_reason_);
  }

  // A column that the mapping names and no row has is a typing error, not an empty column.
  void check_columns() const {
    for (const auto& [column, meaning] : unseen_)
      refuse("{}: no row has the column \"{}\" ({} in {}); the first row has {}", set_.files[0].string(), column, meaning, set_.mapping.where, first_keys_);
  }
  int64_t read() const { return read_; }

 private:
  SplitOptions split_options(const fs::path& file) const {
    SplitOptions split{file.string(), options_.pretraining, known_columns()};
    const Mapping& m = set_.mapping;
    for (const std::string* column : {&m.prompt, &m.query, &m.response, &m.history, &m.system, &m.messages})
      if (!column->empty()) split.known_columns.push_back(*column);
    return split;
  }

  void read_piece(const FileRows& rows, const FileRows::Piece& piece, Source source, int64_t offset) {
    const std::string where = records_.where(source);
    Notes notes;
    try {
      if (const size_t bad = invalid_utf8(piece.text); bad != std::string_view::npos)
        throw BadRow{fmt::format("invalid UTF-8 at byte {} of the file", offset + static_cast<int64_t>(bad))};
      Record record;
      if (rows.kind == FileRows::Kind::text) record.text = std::string(piece.text);
      else record = read_json(parse_row(rows, piece, where), notes);
      record.source = source;
      records_.rows.push_back(std::move(record));
    } catch (const BadRow& bad) {
      if (first_reason_.empty()) first_reason_ = where + ": " + bad.reason;
      report_.add(DataReport::Action::dropped, bad.reason, where);
      return;
    }
    for (const auto& [action, reason] : notes) report_.add(action, reason, where);
  }

  Record read_json(const Json& row, Notes& notes) {
    if (row.is_object()) {
      std::erase_if(unseen_, [&](const auto& column) { return row.contains(column.first); });
      if (first_keys_.empty())
        for (const auto& [key, value] : row.items()) first_keys_ += (first_keys_.empty() ? "\"" : ", \"") + key + "\"";
    }
    return read_row(row, set_.mapping, options_.pretraining, notes);
  }

  const DataSet& set_;
  const ReadOptions& options_;
  Records& records_;
  DataReport& report_;
  std::vector<std::pair<std::string, std::string>> unseen_;  // mapped columns that need not be in every row: name, meaning
  std::string first_keys_, first_reason_;
  int64_t read_ = 0;
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

void read_records(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report) {
  if (set.mapping.explicit_columns && options.pretraining && set.mapping.formatting == Mapping::Formatting::detect && !set.mapping.response.empty())
    refuse("{}: stage pt reads plain text from the column prompt; the column response (\"{}\") would be ignored", set.mapping.where, set.mapping.response);
  SetReader reader(set, options, records, report);
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
  }
}

void read_records(const std::filesystem::path& file, const ReadOptions& options, Records& records, DataReport& report) {
  read_records(DataSet{file.stem().string(), {file}, {}, 0}, options, records, report);
}

}  // namespace attune::data
