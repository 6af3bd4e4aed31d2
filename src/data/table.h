// CSV and TSV as RFC 4180 has them: a field in quotes may hold delimiters, line breaks and doubled quotes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/file_rows.h"

namespace attune::data {

// Tab, comma or semicolon: whichever the first line has most of, outside of quotes.
char table_delimiter(std::string_view content);
// Records with the line each begins on; empty lines are none. Throws when a quote is never closed.
std::vector<FileRows::Piece> split_table(std::string_view content, char delimiter, const std::string& file);
// The fields of one record. Throws BadRow.
std::vector<std::string> table_fields(std::string_view record, char delimiter);

}  // namespace attune::data
