#include "data/source_reader.h"

#include <algorithm>

#include "util/error.h"

namespace attune::data {
namespace {

// Rows that are parsed at a time: enough for all threads.
constexpr size_t kRows = 256;
constexpr uint64_t kEnds = 4096;  // bytes at both ends of a file that tell it apart

}  // namespace

SourceReader::SourceReader(const DataSet& set, const ReadOptions& options) : set_(set), options_(options), parser_(set, options) {
  if (set.num_samples > 0)
    refuse("streaming: \"{}#{}\" chooses among all rows of the data set, which a stream does not know. max_samples takes the first ones", set.name,
           set.num_samples);
  for (const fs::path& file : set.files) {
    if (!fs::exists(file)) refuse("dataset: {} does not exist", file.string());
    if (!fs::is_regular_file(file)) refuse("dataset: {}: not a regular file", file.string());
    if (fs::file_size(file) == 0) refuse("{}: the file is empty", file.string());
    before_.push_back(before_.back() + fs::file_size(file));
  }
}

void SourceReader::open(int64_t file, uint64_t offset) {
  const fs::path& path = set_.files[static_cast<size_t>(file)];
  stream_ = std::make_unique<FileStream>(path, parser_.split_options(path));
  parser_.check_kind(stream_->layout().kind, path);
  file_ = file;
  from_beginning_ = offset <= stream_->begin().offset;
  set_from_beginning_ = from_beginning_ && (file == 0 || set_from_beginning_);
  read_ = usable_ = 0;
  first_reason_.clear();
}

void SourceReader::close() {
  stream_.reset();
  file_ = -1;
}

// Parses the next rows. False where the set is at its end.
bool SourceReader::fill(Place& place) {
  for (;;) {
    const int64_t left = options_.max_samples > 0 ? options_.max_samples - place.rows : static_cast<int64_t>(kRows);
    if (place.file >= static_cast<int64_t>(set_.files.size()) || left <= 0) {
      if (set_from_beginning_ && left > 0) parser_.check_columns();
      close();
      return false;
    }
    if (file_ != place.file) open(place.file, place.offset);
    const std::string name = set_.files[static_cast<size_t>(place.file)].string();
    const FileStream::Block block = stream_->read({place.offset, place.line}, std::min(kRows, static_cast<size_t>(left)));
    const size_t n = block.rows.pieces.size();
    if (n == 0) {
      if (from_beginning_ && usable_ == 0) refuse("{}: none of its {} rows can be used; the first: {}", name, read_, first_reason_);
      close();
      place = {place.pass, place.file + 1, 0, 1, place.rows};
      continue;
    }
    const auto offset = [this](std::string_view text) { return stream_->offset_of(text); };
    std::vector<RowParser::Parsed> parsed = parser_.parse(block.rows, 0, n, name, static_cast<int32_t>(place.file), offset);
    at_ = place;
    for (size_t i = 0; i < n; ++i) {
      ++read_;
      usable_ += parsed[i].bad.empty();
      if (first_reason_.empty() && !parsed[i].bad.empty()) first_reason_ = fmt::format("{}:{}: {}", name, parsed[i].record.source.line, parsed[i].bad);
      const Place behind{place.pass, place.file, block.behind[i].offset, block.behind[i].line, place.rows + static_cast<int64_t>(i) + 1};
      rows_.emplace_back(std::move(parsed[i]), behind);
    }
    return true;
  }
}

bool SourceReader::next(Place& place, Row& row) {
  if (rows_.empty() || !(at_ == place)) {
    if (!(at_ == place)) close();  // somewhere else: counting begins anew
    rows_.clear();
    if (!fill(place)) return false;
  }
  row.parsed = std::move(rows_.front().first);
  row.where = fmt::format("{}:{}", set_.files[static_cast<size_t>(place.file)].string(), row.parsed.record.source.line);
  at_ = place = rows_.front().second;
  rows_.pop_front();
  return true;
}

double SourceReader::progress(const Place& place) const {
  const auto file = static_cast<size_t>(place.file);
  const uint64_t behind = file + 1 < before_.size() ? before_[file] + place.offset : bytes();
  const double share = static_cast<double>(behind) / static_cast<double>(bytes());
  return options_.max_samples > 0 ? std::max(share, static_cast<double>(place.rows) / static_cast<double>(options_.max_samples)) : share;
}

void SourceReader::add_to(Hasher& hasher) const {
  hasher.update(set_.name.data(), set_.name.size());
  for (const fs::path& file : set_.files) {
    const FileReader reader(file);
    const uint64_t size = reader.size(), n = std::min(size, kEnds);
    std::string ends(2 * n, 0);
    reader.read_at(0, ends.data(), n);
    reader.read_at(size - n, ends.data() + n, n);
    hasher.update(&size, sizeof size);
    hasher.update(ends.data(), ends.size());
  }
}

}  // namespace attune::data
