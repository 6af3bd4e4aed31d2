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

// What of a file its beginning tells.
struct FileLayout {
  enum class Rows { lines, list, object, table };  // object: all rows stand in one JSON object, or it is the only row
  FileRows::Kind kind = FileRows::Kind::json;
  Rows rows = Rows::lines;
  std::vector<std::string> header;  // of a table
  char delimiter = ',';
  size_t begin = 0;  // byte behind which the rows stand: behind a table's header, a list's bracket
  int64_t line = 1;  // the line of that byte
};

struct SplitOptions {
  std::string file;                         // how messages name it
  bool plain_text = false;                  // a .txt or .md file is text unless it holds JSON rows
  std::vector<std::string> known_columns;   // by these the header of a table is known, and a row that holds a list
};

// `head`: the file, or as much of its beginning as holds the first two lines. Throws when the file is no data.
FileLayout layout_of(std::string_view head, const SplitOptions& options);

// `content` must outlive the result. Throws when the file is no data, is cut off, or holds something behind its end.
FileRows split_file(std::string_view content, const SplitOptions& options);

// The whole rows among the first bytes of what stands behind a place in a file, for reading it block by block.
struct RowBlock {
  struct Place {
    size_t at = 0;  // a byte, and the line that it stands on
    int64_t line = 1;
  };
  std::vector<FileRows::Piece> pieces;
  std::vector<Place> behind;  // each of them
  Place end;                  // behind the last of them and blank lines that follow it
  bool last = false;          // there are no more rows
};
// At most `most` rows of `content`, which begins behind a row, on `line`. `whole`: the file ends where `content` does. Without
// it, a row that is not closed is left to the next block. What is wrong throws once the rows before it are given. Not for
// FileLayout::Rows::object.
RowBlock cut_rows(std::string_view content, int64_t line, const FileLayout& layout, size_t most, bool whole, const std::string& file);

// A row of a table or JSON text as a JSON value; `where` names it in messages. Throws BadRow.
Json parse_row(const FileRows& rows, const FileRows::Piece& piece, const std::string& where);

// Byte offset of the first byte that is no UTF-8; npos where there is none.
size_t invalid_utf8(std::string_view text);

}  // namespace attune::data
