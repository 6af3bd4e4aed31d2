// CSV and TSV as RFC 4180 has them: a field in quotes may hold delimiters, line breaks and doubled quotes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/file_rows.h"

namespace attune::data {

// Tab, comma or semicolon: whichever the first line has most of, outside of quotes.
char table_delimiter(std::string_view content);
// The record that begins at `at`, on `line`. Throws when a quote is never closed.
struct TableRecord {
  std::string_view text;
  size_t end;    // behind its line break
  int64_t line;  // of that byte
};
TableRecord table_record(std::string_view content, size_t at, int64_t line, char delimiter, const std::string& file);
// Where the record that begins at `at` ends: its line break, the size of `content` where there is none, npos within quotes.
size_t table_record_end(std::string_view content, size_t at, char delimiter);
// The fields of one record. Throws BadRow.
std::vector<std::string> table_fields(std::string_view record, char delimiter);

}  // namespace attune::data
