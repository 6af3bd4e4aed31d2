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

std::vector<Piece> split_lines(std::string_view content) {
  std::vector<Piece> out;
  int64_t line = 1;
  for (size_t at = 0; at < content.size(); ++line) {
    size_t end = content.find('\n', at);
    if (end == kNone) end = content.size();
    std::string_view piece = content.substr(at, end - at);
    if (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
    if (piece.find_first_not_of(" \t") != kNone) out.push_back({piece, line});
    at = end + 1;
  }
  return out;
}

// Goes over the JSON value that begins at `at` by its brackets and strings alone. `on_element` sees each element of the
// outermost list or object. Returns the place behind the value, npos where it is not closed.
template <class OnElement>
size_t walk_value(std::string_view content, size_t at, OnElement on_element) {
  int depth = 0;
  bool in_string = false;
  size_t start = kNone;
  for (size_t i = at; i < content.size(); ++i) {
    const char c = content[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
      continue;
    }
    if (depth == 1 && start == kNone && c != ',' && c != ']' && c != '}' && !std::isspace(static_cast<unsigned char>(c))) start = i;
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (start != kNone && depth == 1 && (c == ',' || c == ']' || c == '}')) {
      on_element(start, i);
      start = kNone;
    }
    if ((c == ']' || c == '}') && --depth == 0) return i + 1;
  }
  return kNone;
}

// The elements of the JSON list that begins at `at`, which is all that the content holds from there to `end`.
std::vector<Piece> split_list(std::string_view content, size_t at, const std::string& file) {
  std::vector<Piece> out;
  size_t counted = 0;
  int64_t line = 1;
  const size_t end = walk_value(content, at, [&](size_t from, size_t to) {
    line += std::count(content.begin() + static_cast<ptrdiff_t>(counted), content.begin() + static_cast<ptrdiff_t>(from), '\n');
    counted = from;
    out.push_back({content.substr(from, to - from), line});
  });
  if (end == kNone) fail("{}: the JSON list is not closed: the file seems to be cut off", file);
  if (const size_t behind = content.find_first_not_of(kSpace, end); behind != kNone)
    fail("{}:{}: something stands behind the end of the JSON list; it would be lost", file, line_of(content, behind));
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
  std::vector<Piece> out;
  size_t counted = 0;
  int64_t line = 1;
  walk_value(content, lists[0].second, [&](size_t from, size_t to) {
    line += std::count(content.begin() + static_cast<ptrdiff_t>(counted), content.begin() + static_cast<ptrdiff_t>(from), '\n');
    counted = from;
    out.push_back({content.substr(from, to - from), line});
  });
  return out;
}

// Objects: JSONL, or one object in the whole file. A first line that is a value of its own begins JSONL.
std::vector<Piece> split_objects(std::string_view content, size_t first, const SplitOptions& options) {
  std::vector<Piece> lines = split_lines(content);
  const bool begins_lines = Json::accept(lines[0].text);
  if (begins_lines && lines.size() > 1) return lines;
  const size_t end = walk_value(content, first, [](size_t, size_t) {});
  if (end == kNone || content.find_first_not_of(kSpace, end) != kNone) return lines;
  if (auto rows = split_wrapped(content, first, options)) return *rows;
  return {{content.substr(first, end - first), line_of(content, first)}};
}

std::optional<FileRows> as_table(std::string_view content, const SplitOptions& options, bool named_table) {
  FileRows rows;
  rows.kind = Kind::table;
  rows.delimiter = table_delimiter(content);
  // Not every text is a table: look at its first line before its quotes are trusted.
  const auto known = [&](const std::string& name) {
    return std::find(options.known_columns.begin(), options.known_columns.end(), name) != options.known_columns.end();
  };
  const auto header_of = [&](std::string_view record) {
    std::vector<std::string> names;
    try {
      names = table_fields(record, rows.delimiter);
    } catch (const BadRow&) {
      return std::vector<std::string>{};
    }
    for (std::string& name : names) {
      name.erase(0, name.find_first_not_of(" \t"));
      name.erase(name.find_last_not_of(" \t") + 1);
    }
    return names;
  };
  rows.header = header_of(split_lines(content.substr(0, std::min(content.find('\n', content.find_first_not_of(kSpace)), content.size())))[0].text);
  if (!named_table && (rows.header.size() < 2 || std::count_if(rows.header.begin(), rows.header.end(), known) < 2)) return std::nullopt;
  rows.pieces = split_table(content, rows.delimiter, options.file);
  rows.header = header_of(rows.pieces[0].text);
  std::set<std::string> seen;
  for (const std::string& name : rows.header)
    if (!name.empty() && !seen.insert(name).second) refuse("{}:{}: the header has the column \"{}\" twice", options.file, rows.pieces[0].line, name);
  rows.pieces.erase(rows.pieces.begin());
  return rows;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  if (text::is_valid_utf8(text)) return kNone;
  size_t at = 0;
  for (text::CodePoint c = text::code_point_at(text, at); c.valid; c = text::code_point_at(text, at)) at += c.bytes;
  return at;
}

FileRows split_file(std::string_view content, const SplitOptions& options) {
  const std::string& file = options.file;
  const size_t first = content.find_first_not_of(kSpace);
  if (first == kNone) refuse("{}: the file is empty", file);
  if (content.starts_with("\xFF\xFE") || content.starts_with("\xFE\xFF")) refuse("{}: the file is UTF-16; save it as UTF-8", file);
  const std::string extension = std::filesystem::path(file).extension().string();
  const bool text = extension == ".txt" || extension == ".md", table = extension == ".csv" || extension == ".tsv";
  const size_t second = content.find_first_not_of(kSpace, first + 1);
  if (content[first] == '[' && (!text || (second != kNone && content[second] == '{'))) return {Kind::json, split_list(content, first, file), {}, ','};
  // Rows in a file named .txt are rows, but a text may begin with a brace.
  if (content[first] == '{' && (!text || Json::accept(split_lines(content)[0].text))) return {Kind::json, split_objects(content, first, options), {}, ','};
  if (!text || !options.plain_text)
    if (auto rows = as_table(content, options, table)) return *rows;
  if (text) return {Kind::text, split_lines(content), {}, ','};
  const auto byte = static_cast<unsigned char>(content[first]);
  refuse("{}: not JSON (begins with {}), not a table with a header row of known columns, and not a .txt file. Expected JSONL, a JSON "
         "list, CSV, TSV or plain text", file, byte > 0x20 && byte < 0x7F ? fmt::format("'{}'", content[first]) : fmt::format("byte 0x{:02X}", byte));
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
