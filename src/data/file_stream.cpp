#include "data/file_stream.h"

#include <algorithm>

#include "util/error.h"

namespace attune::data {
namespace {

constexpr uint64_t kHead = 1 << 20, kBlock = 4 << 20;
constexpr std::string_view kMark = "\xEF\xBB\xBF";  // byte order mark

}  // namespace

FileStream::FileStream(const fs::path& file, const SplitOptions& options) : reader_(file), options_(options) {
  for (uint64_t bytes = kHead;; bytes = kLongestRow) {
    std::string_view head = fill(0, bytes);
    const bool whole = head.size() == size(), last = whole || bytes == kLongestRow;
    if (head.starts_with(kMark)) head.remove_prefix(kMark.size());
    // Without its first two lines a file cannot be told.
    const size_t first = head.find_first_not_of(" \t\r\n");
    const bool lines = first != std::string_view::npos && head.find('\n', first) != std::string_view::npos && head.back() != '\n';
    if (!lines && !last) continue;
    layout_ = layout_of(head, options_);
    if (layout_.rows == FileLayout::Rows::object && !last) continue;
    if (layout_.rows == FileLayout::Rows::object && !whole)
      refuse("{}: it begins like one JSON object that holds everything, and is too large to be read as a whole ({} bytes). A stream needs rows that "
             "stand one by one: JSONL, a JSON list, CSV, TSV or text. `attune data convert` makes them", file.string(), size());
    begin_ = {layout_.begin + static_cast<uint64_t>(head.data() - buffer_.data()), layout_.line};
    if (layout_.rows == FileLayout::Rows::object) object_ = split_file(head, options_);
    return;
  }
}

std::string_view FileStream::fill(uint64_t offset, uint64_t bytes) {
  const uint64_t end = std::min(size(), offset + bytes);
  buffer_at_ = offset;
  buffer_.resize(end > offset ? end - offset : 0);
  if (!buffer_.empty()) reader_.read_at(offset, buffer_.data(), buffer_.size());
  return buffer_;
}

// What is in memory of the file from there on.
std::string_view FileStream::held(uint64_t offset) const {
  const bool within = offset >= buffer_at_ && offset - buffer_at_ < buffer_.size();
  return within ? std::string_view(buffer_).substr(offset - buffer_at_) : std::string_view();
}

FileStream::Block FileStream::read(Place from, size_t most) {
  if (from.offset < begin_.offset) from = begin_;
  if (layout_.rows == FileLayout::Rows::object) return read_object(from, most);
  for (uint64_t bytes = 0;;) {
    const std::string_view content = bytes == 0 ? held(from.offset) : fill(from.offset, bytes);
    const bool whole = from.offset + content.size() >= size();
    RowBlock cut = cut_rows(content, from.line, layout_, most, whole, options_.file);
    if (!cut.pieces.empty() || cut.last) {
      Block block{{layout_.kind, std::move(cut.pieces), layout_.header, layout_.delimiter}, {}};
      for (const RowBlock::Place& p : cut.behind) block.behind.push_back({from.offset + p.at, p.line});
      return block;
    }
    // Blank lines are passed over; a row that is not whole needs a larger block.
    if (cut.end.at > 0) from = {from.offset + cut.end.at, cut.end.line};
    else if (bytes >= kLongestRow) fail("{}:{}: this row is longer than {} bytes; is a quote or bracket in it never closed?", options_.file, from.line, kLongestRow);
    else bytes = bytes == 0 ? kBlock : 4 * bytes;
  }
}

FileStream::Block FileStream::read_object(Place from, size_t most) {
  Block block{{object_.kind, {}, object_.header, object_.delimiter}, {}};
  for (const FileRows::Piece& piece : object_.pieces) {
    if (offset_of(piece.text) < from.offset) continue;
    if (block.rows.pieces.size() == most) break;
    block.rows.pieces.push_back(piece);
    block.behind.push_back({offset_of(piece.text) + piece.text.size(), piece.line});
  }
  return block;
}

}  // namespace attune::data
