// Rows of a data set's files → records, many at once; the same for files that are read as a whole and for streams.
#pragma once

#include <atomic>
#include <exception>

#include "data/readers.h"
#include "data/shapes.h"

namespace attune::data {

class RowParser {
 public:
  // Refuses a set that says it holds rows for another stage.
  RowParser(const DataSet& set, const ReadOptions& options);

  SplitOptions split_options(const std::filesystem::path& file) const;
  // A stage that needs more than plain text refuses it.
  void check_kind(FileRows::Kind kind, const std::filesystem::path& file) const;

  // What became of one row.
  struct Parsed {
    Record record;
    Notes notes;
    std::string bad;  // why it cannot be used; empty where it can
    std::string keys;  // of the row, for messages
  };
  // Rows [begin, end) in parallel. `place`: the first byte of a row in its file; `file`: its name and Source::file.
  template <class Place>
  std::vector<Parsed> parse(const FileRows& rows, size_t begin, size_t end, const std::string& file, int32_t index, Place place) {
    std::vector<Parsed> out(end - begin);
    std::vector<std::exception_ptr> errors(out.size());
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < out.size(); ++i) {
      const FileRows::Piece& piece = rows.pieces[begin + i];
      try {
        parse_one(rows, piece, file, place(piece.text), out[i]);
      } catch (...) {
        errors[i] = std::current_exception();
      }
      out[i].record.source = {index, piece.line};
    }
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
    for (const Parsed& p : out)
      if (first_keys_.empty()) first_keys_ = p.keys;
    return out;
  }

  // A column that the mapping names and no row has had is a typing error, not an empty column.
  void check_columns() const;

 private:
  void parse_one(const FileRows& rows, const FileRows::Piece& piece, const std::string& file, uint64_t offset, Parsed& out);
  Record read_json(const Json& row, Parsed& out);

  const DataSet& set_;
  RowKind kind_;
  std::vector<std::pair<std::string, std::string>> optional_;  // mapped columns that need not be in every row: name, meaning
  std::vector<std::atomic<bool>> seen_;                        // which of them a row had
  std::string first_keys_;
};

}  // namespace attune::data
