#include "data/file_rows.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "data/table.h"
#include "text/unicode.h"
#include "util/error.h"

namespace attune::data {
namespace {

using Piece = FileRows::Piece;
using Kind = FileRows::Kind;

constexpr size_t kNone = std::string_view::npos;
constexpr const char* kSpace = " \t\r\n";

int64_t line_of(std::string_view content, size_t at) {
  return 1 + std::count(content.begin(), content.begin() + static_cast<ptrdiff_t>(at), '\n');
}

// Where the first line begins that is not blank.
size_t first_line_begin(std::string_view content) {
  const size_t newline = content.rfind('\n', content.find_first_not_of(kSpace));
  return newline == kNone ? 0 : newline + 1;
}

std::string_view first_line(std::string_view content) {
  const size_t begin = first_line_begin(content);
  std::string_view line = content.substr(begin, content.find('\n', begin) - begin);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

bool closes(char c) { return c == ']' || c == '}'; }

// Goes over JSON from `at` on by its brackets and strings alone. `ends` sees every character outside of strings and how many brackets
// are open before it; the place of the first one for which it holds, npos where there is none.
template <class Ends>
size_t walk(std::string_view content, size_t at, Ends ends) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = at; i < content.size(); ++i) {
    const char c = content[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
      continue;
    }
    if (ends(i, depth)) return i;
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (closes(c) && depth > 0) --depth;
  }
  return kNone;
}

// The list or object that begins at `at`; `on_element` sees each of its elements. Returns the place behind it, npos where it is not closed.
template <class OnElement>
size_t walk_value(std::string_view content, size_t at, OnElement on_element) {
  size_t start = kNone;
  const size_t end = walk(content, at, [&](size_t i, int depth) {
    if (depth != 1) return false;
    const bool border = content[i] == ',' || closes(content[i]);
    if (border && start != kNone) on_element(start, i), start = kNone;
    else if (!border && start == kNone && !std::isspace(static_cast<unsigned char>(content[i]))) start = i;
    return closes(content[i]);
  });
  return end == kNone ? kNone : end + 1;
}

// Behind the element of a list that begins at `at`: its comma or the list's bracket. npos where neither is there.
size_t element_end(std::string_view content, size_t at) {
  return walk(content, at, [&](size_t i, int depth) { return depth == 0 && i > at && (content[i] == ',' || closes(content[i])); });
}

RowBlock cut_lines(std::string_view content, int64_t line, size_t most, bool whole) {
  RowBlock out{{}, {}, {0, line}, false};
  while (out.end.at < content.size() && out.pieces.size() < most) {
    size_t end = content.find('\n', out.end.at);
    if (end == kNone && !whole) return out;
    if (end == kNone) end = content.size();
    std::string_view piece = content.substr(out.end.at, end - out.end.at);
    if (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
    const bool blank = piece.find_first_not_of(" \t") == kNone;
    if (!blank) out.pieces.push_back({piece, out.end.line});
    out.end = {std::min(end + 1, content.size()), out.end.line + 1};
    if (!blank) out.behind.push_back(out.end);
  }
  out.last = whole && out.end.at == content.size();
  return out;
}

RowBlock cut_table(std::string_view content, int64_t line, char delimiter, size_t most, bool whole, const std::string& file) {
  RowBlock out{{}, {}, {0, line}, false};
  while (out.end.at < content.size() && out.pieces.size() < most) {
    const size_t end = table_record_end(content, out.end.at, delimiter);
    if (end == content.size() && !whole) return out;
    if (end == kNone && (!whole || !out.pieces.empty())) return out;
    const TableRecord record = table_record(content, out.end.at, out.end.line, delimiter, file);
    const bool blank = record.text.find_first_not_of(" \t\r") == kNone;
    if (!blank) out.pieces.push_back({record.text, out.end.line});
    out.end = {record.end, record.line};
    if (!blank) out.behind.push_back(out.end);
  }
  out.last = whole && out.end.at == content.size();
  return out;
}

// Behind the opening bracket of a list, or behind one of its elements.
RowBlock cut_list(std::string_view content, int64_t line, size_t most, bool whole, const std::string& file) {
  RowBlock out{{}, {}, {0, line}, false};
  const auto go_to = [&](size_t at) {
    out.end.line += std::count(content.begin() + static_cast<ptrdiff_t>(out.end.at), content.begin() + static_cast<ptrdiff_t>(at), '\n');
    out.end.at = at;
  };
  while (out.pieces.size() < most) {
    const size_t from = content.find_first_not_of(" \t\r\n,", out.end.at);
    if (from != kNone && content[from] == ']') {
      const size_t behind = content.find_first_not_of(kSpace, from + 1);
      if (behind != kNone && out.pieces.empty()) {
        go_to(behind);
        fail("{}:{}: something stands behind the end of the JSON list; it would be lost", file, out.end.line);
      }
      out.last = whole && behind == kNone;
      return out;
    }
    const size_t to = from == kNone ? kNone : element_end(content, from);
    if (to == kNone && (!whole || !out.pieces.empty())) return out;
    if (to == kNone) fail("{}: the JSON list is not closed: the file seems to be cut off", file);
    go_to(from);
    out.pieces.push_back({content.substr(from, to - from), out.end.line});
    go_to(to);
    out.behind.push_back(out.end);
  }
  return out;
}

// {"data": [{…}, …]}: the rows are the elements of the only list of objects. Nothing where the object is itself a row.
std::optional<std::vector<Piece>> split_wrapped(std::string_view content, size_t at, const SplitOptions& options) {
  const std::string& file = options.file;
  std::vector<std::pair<std::string, size_t>> lists;
  const size_t end = walk_value(content, at, [&](size_t from, size_t to) {
    const size_t closing = content.find('"', from + 1), colon = content.find(':', closing == kNone ? from : closing);
    if (content[from] != '"' || colon == kNone || colon > to) return;
    const size_t value = content.find_first_not_of(kSpace, colon + 1);
    if (value == kNone || content[value] != '[') return;
    const size_t first = content.find_first_not_of(kSpace, value + 1);
    if (first != kNone && content[first] == '{') lists.push_back({std::string(content.substr(from + 1, closing - from - 1)), value});
  });
  if (end == kNone || content.find_first_not_of(kSpace, end) != kNone || lists.empty()) return std::nullopt;
  static const std::set<std::string> of_rows{"conversations", "messages", "conversation", "tools", "prompt", "completion", "chosen", "rejected"};
  const auto& known = options.known_columns;
  for (const auto& [name, place] : lists)
    if (of_rows.count(name) || std::find(known.begin(), known.end(), name) != known.end()) return std::nullopt;
  if (lists.size() > 1)
    refuse("{}: the object holds several lists of rows (\"{}\", \"{}\"); put each list into a file of its own", file, lists[0].first, lists[1].first);
  const size_t begin = lists[0].second, behind = walk_value(content, begin, [](size_t, size_t) {});
  return cut_list(content.substr(begin + 1, behind - begin - 1), line_of(content, begin), content.size(), true, file).pieces;
}

// Objects stand on lines of their own, or one object is the whole file. A first line that is a value of its own begins JSONL.
bool stand_on_lines(std::string_view content, size_t first) {
  const bool more = content.find_first_not_of(kSpace, std::min(content.find('\n', first), content.size())) != kNone;
  if (Json::accept(first_line(content))) return more;
  const size_t closed = walk_value(content, first, [](size_t, size_t) {});
  return closed == kNone || content.find_first_not_of(kSpace, closed) != kNone;
}

std::vector<Piece> split_object(std::string_view content, const SplitOptions& options) {
  const size_t first = content.find_first_not_of(kSpace), end = walk_value(content, first, [](size_t, size_t) {});
  if (auto rows = split_wrapped(content, first, options)) return *rows;
  return {{content.substr(first, end - first), line_of(content, first)}};
}

std::vector<std::string> header_of(std::string_view record, char delimiter) {
  std::vector<std::string> names;
  try {
    names = table_fields(record, delimiter);
  } catch (const BadRow&) {
    return {};
  }
  for (std::string& name : names) {
    name.erase(0, name.find_first_not_of(" \t"));
    name.erase(name.find_last_not_of(" \t") + 1);
  }
  return names;
}

std::optional<FileLayout> as_table(std::string_view head, const SplitOptions& options, bool named_table) {
  FileLayout layout{Kind::table, FileLayout::Rows::table, {}, table_delimiter(head), 0, 1};
  // Not every text is a table: look at its first line before its quotes are trusted.
  const auto known = [&](const std::string& name) {
    return std::find(options.known_columns.begin(), options.known_columns.end(), name) != options.known_columns.end();
  };
  layout.header = header_of(first_line(head), layout.delimiter);
  if (!named_table && (layout.header.size() < 2 || std::count_if(layout.header.begin(), layout.header.end(), known) < 2)) return std::nullopt;
  const size_t begin = first_line_begin(head);
  layout.line = line_of(head, begin);
  const TableRecord record = table_record(head, begin, layout.line, layout.delimiter, options.file);
  layout.header = header_of(record.text, layout.delimiter);
  std::set<std::string> seen;
  for (const std::string& name : layout.header)
    if (!name.empty() && !seen.insert(name).second) refuse("{}:{}: the header has the column \"{}\" twice", options.file, layout.line, name);
  layout.begin = record.end;
  layout.line = record.line;
  return layout;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  if (text::is_valid_utf8(text)) return kNone;
  size_t at = 0;
  for (text::CodePoint c = text::code_point_at(text, at); c.valid; c = text::code_point_at(text, at)) at += c.bytes;
  return at;
}

FileLayout layout_of(std::string_view head, const SplitOptions& options) {
  using Rows = FileLayout::Rows;
  const std::string& file = options.file;
  const size_t first = head.find_first_not_of(kSpace);
  if (first == kNone) refuse("{}: the file is empty", file);
  if (head.starts_with("\xFF\xFE") || head.starts_with("\xFE\xFF")) refuse("{}: the file is UTF-16; save it as UTF-8", file);
  const std::string extension = std::filesystem::path(file).extension().string();
  const bool text = extension == ".txt" || extension == ".md", table = extension == ".csv" || extension == ".tsv";
  const size_t second = head.find_first_not_of(kSpace, first + 1);
  if (head[first] == '[' && (!text || (second != kNone && head[second] == '{')))
    return {Kind::json, Rows::list, {}, ',', first + 1, line_of(head, first)};
  // Rows in a file named .txt are rows, but a text may begin with a brace.
  if (head[first] == '{' && (!text || Json::accept(first_line(head))))
    return {Kind::json, stand_on_lines(head, first) ? Rows::lines : Rows::object, {}, ',', 0, 1};
  if (!text || !options.plain_text)
    if (auto layout = as_table(head, options, table)) return *layout;
  if (text) return {Kind::text, Rows::lines, {}, ',', 0, 1};
  const auto byte = static_cast<unsigned char>(head[first]);
  refuse("{}: not JSON (begins with {}), not a table with a header row of known columns, and not a .txt file. Expected JSONL, a JSON "
         "list, CSV, TSV or plain text", file, byte > 0x20 && byte < 0x7F ? fmt::format("'{}'", head[first]) : fmt::format("byte 0x{:02X}", byte));
}

FileRows split_file(std::string_view content, const SplitOptions& options) {
  const FileLayout layout = layout_of(content, options);
  FileRows rows{layout.kind, {}, layout.header, layout.delimiter};
  if (layout.rows == FileLayout::Rows::object) rows.pieces = split_object(content, options);
  if (layout.rows == FileLayout::Rows::object) return rows;
  const std::string_view behind = content.substr(layout.begin);
  RowBlock all = cut_rows(behind, layout.line, layout, content.size() + 1, true, options.file);
  if (!all.last) cut_rows(behind.substr(all.end.at), all.end.line, layout, 1, true, options.file);  // says what is wrong there
  rows.pieces = std::move(all.pieces);
  return rows;
}

RowBlock cut_rows(std::string_view content, int64_t line, const FileLayout& layout, size_t most, bool whole, const std::string& file) {
  switch (layout.rows) {
    case FileLayout::Rows::list: return cut_list(content, line, most, whole, file);
    case FileLayout::Rows::table: return cut_table(content, line, layout.delimiter, most, whole, file);
    default: return cut_lines(content, line, most, whole);
  }
}

Json parse_row(const FileRows& rows, const Piece& piece, const std::string& where) {
  if (rows.kind != Kind::table) {
    try {
      return parse_json(piece.text, where);
    } catch (const Error& e) {
      // Without the place and the parser's detail, so that rows with the same fault count as one.
      std::string message = e.what();
      if (message.starts_with(where + ": ")) message.erase(0, where.size() + 2);
      const std::string plain = "not valid JSON";
      throw BadRow{message.starts_with(plain) && message.find("NUL") == kNone ? plain : message};
    }
  }
  const std::vector<std::string> fields = table_fields(piece.text, rows.delimiter);
  if (fields.size() != rows.header.size())
    throw BadRow{fmt::format("the row has {} fields, the header has {}; a field that holds the delimiter or a line break belongs in quotes",
                             fields.size(), rows.header.size())};
  Json row = Json::object();
  for (size_t i = 0; i < fields.size(); ++i)
    if (!rows.header[i].empty()) row[rows.header[i]] = fields[i];
  return row;
}

}  // namespace attune::data
