#include "data/row_parser.h"

#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune::data {
namespace {

// Where the entry of dataset_info.json says what its rows are, the stage must be one that learns from them.
void check_mapping(const Mapping& m, RowKind kind) {
  const bool pairs = m.is_pairs(), judged = !m.kto_tag.empty();
  const RowKind said = pairs ? RowKind::pair : RowKind::judged;
  if ((pairs || judged) && said != kind)
    refuse("{}: \"{}\" says that it holds {}, which are for stage {}; stage {} needs {}", m.where, judged ? "kto_tag" : m.ranking ? "ranking" : "chosen",
           description_of(said), stages_of(said), stages_of(kind), description_of(kind));
  if (m.explicit_columns && kind == RowKind::text && m.formatting == Mapping::Formatting::detect && !m.response.empty())
    refuse("{}: stage pt reads plain text from the column prompt; the column response (\"{}\") would be ignored", m.where, m.response);
}

}  // namespace

RowParser::RowParser(const DataSet& set, const ReadOptions& options) : set_(set), kind_(options.kind) {
  const Mapping& m = set.mapping;
  check_mapping(m, kind_);
  if (m.explicit_columns)
    for (const auto& [column, meaning] : {std::pair{m.query, "query"}, {m.history, "history"}, {m.system, "system"}, {m.tools, "tools"}})
      if (!column.empty()) optional_.push_back({column, meaning});
  seen_ = std::vector<std::atomic<bool>>(optional_.size());
}

SplitOptions RowParser::split_options(const std::filesystem::path& file) const {
  SplitOptions split{file.string(), kind_ == RowKind::text, known_columns()};
  const Mapping& m = set_.mapping;
  for (const std::string* column : {&m.prompt, &m.query, &m.response, &m.history, &m.system, &m.messages, &m.chosen, &m.rejected, &m.kto_tag})
    if (!column->empty()) split.known_columns.push_back(*column);
  return split;
}

void RowParser::check_kind(FileRows::Kind kind, const std::filesystem::path& file) const {
  if (kind == FileRows::Kind::text && kind_ != RowKind::text)
    refuse("{}: plain text is for stage pt; stage {} needs {}", file.string(), stages_of(kind_), description_of(kind_));
}

// By many threads at once.
void RowParser::parse_one(const FileRows& rows, const FileRows::Piece& piece, const std::string& file, uint64_t offset, Parsed& out) {
  try {
    if (const size_t bad = invalid_utf8(piece.text); bad != std::string_view::npos)
      throw BadRow{fmt::format("invalid UTF-8 at byte {} of the file", offset + bad)};
    if (rows.kind == FileRows::Kind::text) out.record.text = std::string(piece.text);
    else out.record = read_json(parse_row(rows, piece, fmt::format("{}:{}", file, piece.line)), out);
  } catch (const BadRow& bad) {
    out.bad = bad.reason;
  }
}

Record RowParser::read_json(const Json& row, Parsed& out) {
  if (row.is_object()) {
    for (size_t i = 0; i < optional_.size(); ++i)
      if (!seen_[i] && row.contains(optional_[i].first)) seen_[i] = true;
    if (first_keys_.empty())
      for (const auto& [key, value] : row.items()) out.keys += (out.keys.empty() ? "\"" : ", \"") + key + "\"";
  }
  return read_row(row, set_.mapping, kind_, out.notes);
}

void RowParser::check_columns() const {
  for (size_t i = 0; i < optional_.size(); ++i)
    if (!seen_[i])
      refuse("{}: no row has the column \"{}\" ({} in {}); the first row has {}", set_.files[0].string(), optional_[i].first, optional_[i].second,
             set_.mapping.where, first_keys_);
}

}  // namespace attune::data
