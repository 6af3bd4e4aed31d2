// A data file whose rows are read block by block: memory holds one block, whatever the size of the file. What a file may be says
// file_rows.h; one JSON object that holds all rows is read as a whole and therefore must be small.
#pragma once

#include "data/file_rows.h"
#include "util/files.h"

namespace attune::data {

class FileStream {
 public:
  // Looks at the beginning of the file. Throws as split_file does.
  FileStream(const fs::path& file, const SplitOptions& options);

  // A place between rows.
  struct Place {
    uint64_t offset = 0;
    int64_t line = 1;
  };
  // The first row's.
  const Place& begin() const { return begin_; }
  const FileLayout& layout() const { return layout_; }
  uint64_t size() const { return reader_.size(); }

  struct Block {
    FileRows rows;              // views into the stream, good until the next call
    std::vector<Place> behind;  // each row
  };
  // Up to `most` rows behind `from`; none where the file ends. Throws where a row is not closed, or longer than kLongestRow.
  Block read(Place from, size_t most);
  // Where in the file a view of a block stands.
  uint64_t offset_of(std::string_view text) const { return buffer_at_ + static_cast<uint64_t>(text.data() - buffer_.data()); }

  static constexpr uint64_t kLongestRow = 64 << 20;  // bytes

 private:
  std::string_view fill(uint64_t offset, uint64_t bytes);
  std::string_view held(uint64_t offset) const;
  Block read_object(Place from, size_t most);

  FileReader reader_;
  SplitOptions options_;
  FileLayout layout_;
  Place begin_;
  std::string buffer_;
  uint64_t buffer_at_ = 0;
  FileRows object_;  // all rows of FileLayout::Rows::object
};

}  // namespace attune::data
