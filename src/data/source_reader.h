// The rows of one data set one after the other, from any place: what a stream is made of.
#pragma once

#include <deque>
#include <memory>

#include "data/file_stream.h"
#include "data/row_parser.h"
#include "util/hash.h"

namespace attune::data {

class SourceReader {
 public:
  SourceReader(const DataSet& set, const ReadOptions& options);

  // Between two rows.
  struct Place {
    int64_t pass = 0;  // how often the data set has been gone through before
    int64_t file = 0;
    uint64_t offset = 0;
    int64_t line = 1;
    int64_t rows = 0;  // of this pass that are behind
    bool operator==(const Place&) const = default;
  };
  struct Row {
    RowParser::Parsed parsed;
    std::string where;  // file:line
  };
  // The row behind `place`, which moves behind it; false where the set is at its end. Throws where a file cannot be read
  // on, or where none of its rows can be used.
  bool next(Place& place, Row& row);
  // How much of a pass is behind `place`, from 0 to 1.
  double progress(const Place& place) const;
  uint64_t bytes() const { return before_.back(); }
  // Of names, sizes and the bytes at both ends of each file: telling data apart must not take a walk through all of it.
  void add_to(Hasher& hasher) const;

 private:
  bool fill(Place& place);
  void open(int64_t file, uint64_t offset);
  void close();

  const DataSet& set_;
  ReadOptions options_;
  RowParser parser_;
  std::vector<uint64_t> before_{0};  // bytes of the files before each one
  std::unique_ptr<FileStream> stream_;
  int64_t file_ = -1;
  std::deque<std::pair<RowParser::Parsed, Place>> rows_;  // parsed ahead, each with the place behind it
  Place at_;                                              // before the first of them
  // Of the file that is open, where it was read from its beginning.
  bool from_beginning_ = false, set_from_beginning_ = false;
  int64_t read_ = 0, usable_ = 0;
  std::string first_reason_;
};

}  // namespace attune::data
