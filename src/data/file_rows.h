// A data file's bytes → its rows, told from the content:
//
//   JSONL; a JSON list; one JSON object that holds a list of objects; a table (CSV or TSV, RFC 4180, with a header row);
//   plain text, one document a line.
//
// Every row knows the line it begins on. One bad row does not hide the others.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "util/json.h"

namespace attune::data {

// Thrown for a row that cannot be used; becomes a line of the report.
struct BadRow {
  std::string reason;
};

struct FileRows {
  enum class Kind { text, json, table };
  struct Piece {
    std::string_view text;  // into the content that was split
    int64_t line = 0;       // 1-based
  };
  Kind kind = Kind::json;
  std::vector<Piece> pieces;
  std::vector<std::string> header;  // of a table
  char delimiter = ',';
};

struct SplitOptions {
  std::string file;                         // how messages name it
  bool plain_text = false;                  // a .txt or .md file is text unless it holds JSON rows
  std::vector<std::string> known_columns;   // by these the header of a table is known, and a row that holds a list
};

// `content` must outlive the result. Throws when the file is no data, is cut off, or holds something behind its end.
FileRows split_file(std::string_view content, const SplitOptions& options);

// A row of a table or JSON text as a JSON value; `where` names it in messages. Throws BadRow.
Json parse_row(const FileRows& rows, const FileRows::Piece& piece, const std::string& where);

// Byte offset of the first byte that is no UTF-8; npos where there is none.
size_t invalid_utf8(std::string_view text);

}  // namespace attune::data
