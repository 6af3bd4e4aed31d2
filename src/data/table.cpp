#include "data/table.h"

#include <algorithm>
#include <array>

#include "util/error.h"

namespace attune::data {
namespace {

// Goes over `content` from `at` to the end of a record; `on_delimiter` sees where fields end. Returns the place of the
// line break (or the size), npos where a quote is not closed.
template <class OnDelimiter>
size_t walk_record(std::string_view content, size_t at, char delimiter, OnDelimiter on_delimiter) {
  bool quoted = false, field_start = true;
  for (; at < content.size(); ++at) {
    const char c = content[at];
    if (quoted) {
      if (c == '"') {
        if (at + 1 < content.size() && content[at + 1] == '"') ++at;
        else quoted = false;
      }
      continue;
    }
    if (c == '\n') return at;
    // Only a quote that begins a field opens one: 5" is five inches.
    if (c == '"' && field_start) quoted = true;
    field_start = c == delimiter;
    if (c == delimiter) on_delimiter(at);
  }
  return quoted ? std::string_view::npos : at;
}

std::string_view without_return(std::string_view record) {
  if (record.ends_with('\r')) record.remove_suffix(1);
  return record;
}

}  // namespace

char table_delimiter(std::string_view content) {
  char best = ',';
  int64_t most = 0;
  for (char delimiter : std::array{'\t', ',', ';'}) {
    int64_t count = 0;
    walk_record(content, 0, delimiter, [&](size_t) { ++count; });
    if (count > most) most = count, best = delimiter;
  }
  return best;
}

size_t table_record_end(std::string_view content, size_t at, char delimiter) {
  return walk_record(content, at, delimiter, [](size_t) {});
}

TableRecord table_record(std::string_view content, size_t at, int64_t line, char delimiter, const std::string& file) {
  const size_t end = table_record_end(content, at, delimiter);
  if (end == std::string_view::npos) fail("{}:{}: a quote in this row is never closed; all rows behind it would be lost", file, line);
  const std::string_view record = content.substr(at, end - at);
  return {without_return(record), std::min(end + 1, content.size()), line + 1 + std::count(record.begin(), record.end(), '\n')};
}

std::vector<std::string> table_fields(std::string_view record, char delimiter) {
  std::vector<std::string> fields;
  size_t begin = 0;
  const auto add = [&](size_t end) {
    std::string_view field = record.substr(begin, end - begin);
    begin = end + 1;
    if (!field.starts_with('"')) {
      fields.emplace_back(field);
      return;
    }
    std::string text;
    size_t i = 1;
    for (; i < field.size(); ++i) {
      if (field[i] == '"') {
        if (i + 1 >= field.size() || field[i + 1] != '"') break;
        ++i;
      }
      text += field[i];
    }
    if (field.substr(std::min(field.size(), i + 1)).find_first_not_of(' ') != std::string_view::npos)
      throw BadRow{"something stands behind the closing quote of a field; quotes inside of a quoted field are doubled"};
    fields.push_back(std::move(text));
  };
  walk_record(record, 0, delimiter, add);
  add(record.size());
  return fields;
}

}  // namespace attune::data
