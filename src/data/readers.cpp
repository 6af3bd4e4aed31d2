#include "data/readers.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "util/error.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::data {
namespace {

using text::Message;

// Thrown for a row that cannot be used; becomes a line of the report.
struct BadRow {
  std::string reason;
};

struct Piece {
  std::string_view text;
  int64_t line;
};

std::vector<Piece> split_lines(std::string_view content) {
  std::vector<Piece> out;
  int64_t line = 1;
  for (size_t at = 0; at < content.size(); ++line) {
    size_t end = content.find('\n', at);
    if (end == std::string_view::npos) end = content.size();
    std::string_view piece = content.substr(at, end - at);
    if (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
    if (piece.find_first_not_of(" \t") != std::string_view::npos) out.push_back({piece, line});
    at = end + 1;
  }
  return out;
}

// The elements of a top-level JSON list, with the line each begins on, so that one bad row does not hide the others.
std::vector<Piece> split_list(std::string_view content, const std::string& file) {
  std::vector<Piece> out;
  int64_t line = 1, start_line = 0;
  int depth = 0;
  bool in_string = false;
  size_t start = std::string_view::npos;
  for (size_t i = 0; i < content.size(); ++i) {
    const char c = content[i];
    if (c == '\n') ++line;
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
      continue;
    }
    if (depth == 1 && start == std::string_view::npos && c != ',' && c != ']' && !std::isspace(static_cast<unsigned char>(c))) {
      start = i;
      start_line = line;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    const bool closes = c == ']' || c == '}';
    if (start != std::string_view::npos && depth == 1 && (c == ',' || c == ']')) {
      out.push_back({content.substr(start, i - start), start_line});
      start = std::string_view::npos;
    }
    if (closes && --depth == 0) {
      const size_t behind = content.find_first_not_of(" \t\r\n", i + 1);
      if (behind == std::string_view::npos) return out;
      line += std::count(content.begin() + static_cast<ptrdiff_t>(i), content.begin() + static_cast<ptrdiff_t>(behind), '\n');
      fail("{}:{}: something stands behind the end of the JSON list; it would be lost", file, line);
    }
  }
  fail("{}: the JSON list is not closed: the file seems to be cut off", file);
}

std::string text_field(const Json& row, const char* key, bool required) {
  if (!row.contains(key) || row[key].is_null()) {
    if (required) throw BadRow{fmt::format("\"{}\" is missing", key)};
    return "";
  }
  if (!row[key].is_string()) throw BadRow{fmt::format("\"{}\" must be a string", key)};
  return row[key].get<std::string>();
}

std::string tools_field(const Json& row) {
  if (!row.contains("tools") || row["tools"].is_null()) return "";
  const Json& tools = row["tools"];
  if (tools.is_string()) return tools.get<std::string>();
  return tools.dump();
}

// A string, or a list of {"type":"text","text":…} parts.
std::string content_of(const Json& content) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) throw BadRow{"message content must be a string or a list of text parts"};
  std::string all;
  for (const Json& part : content) {
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string())
      throw BadRow{"a message has a part that is not text; only text is supported"};
    all += part["text"].get<std::string>();
  }
  return all;
}

float weight_of(const Json& message) {
  for (const char* key : {"weight", "loss_weight", "loss", "train"}) {
    if (!message.contains(key) || message[key].is_null()) continue;
    if (message[key].is_boolean()) return message[key].get<bool>() ? 1.0f : 0.0f;
    const double weight = message[key].is_number() ? message[key].get<double>() : -1;
    if (weight >= 0 && weight <= 1e3) return static_cast<float>(weight);
    throw BadRow{fmt::format("message \"{}\" must be true, false or a number from 0 to 1000", key)};
  }
  return 1.0f;
}

void read_alpaca(const Json& row, Record& record) {
  auto& messages = record.conversation.messages;
  if (const std::string system = text_field(row, "system", false); !system.empty()) messages.push_back({"system", system, 1, ""});
  if (row.contains("history") && !row["history"].is_null()) {
    for (const Json& turn : row["history"]) {
      if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
        throw BadRow{"\"history\" must be a list of [question, answer] pairs"};
      messages.push_back({"user", turn[0].get<std::string>(), 1, ""});
      messages.push_back({"assistant", turn[1].get<std::string>(), 1, ""});
    }
  }
  std::string question = text_field(row, "instruction", true);
  if (const std::string input = text_field(row, "input", false); !input.empty()) question += (question.empty() ? "" : "\n") + input;
  messages.push_back({"user", question, 1, ""});
  messages.push_back({"assistant", text_field(row, "output", true), 1, ""});
}

Message sharegpt_message(const Json& turn) {
  const std::string from = text_field(turn, "from", true), value = text_field(turn, "value", true);
  Message m{"", value, weight_of(turn), ""};
  if (from == "human" || from == "user") m.role = "user";
  else if (from == "gpt" || from == "assistant") m.role = "assistant";
  else if (from == "system") m.role = "system";
  else if (from == "observation" || from == "tool") m.role = "tool";
  else if (from == "function_call") {
    m.role = "assistant";
    m.content = "";
    Json call, calls = Json::array();
    try {
      call = parse_json(value, "function_call");
    } catch (const Error&) {
      throw BadRow{"a function_call must hold JSON {name, arguments}"};
    }
    for (const Json& one : call.is_array() ? call : Json::array({call}))
      calls.push_back({{"type", "function"}, {"function", one}});
    m.extra_json = Json({{"tool_calls", calls}}).dump();
  } else {
    throw BadRow{fmt::format("unknown speaker \"{}\"; known are human, gpt, system, function_call, observation", from)};
  }
  return m;
}

void read_sharegpt(const Json& row, Record& record) {
  auto& messages = record.conversation.messages;
  if (!row["conversations"].is_array()) throw BadRow{"\"conversations\" must be a list"};
  std::string system = text_field(row, "system", false);
  if (system.empty()) system = text_field(row, "system_prompt", false);
  for (const Json& turn : row["conversations"]) {
    if (!turn.is_object()) throw BadRow{"\"conversations\" must hold objects {from, value}"};
    messages.push_back(sharegpt_message(turn));
  }
  if (!system.empty() && (messages.empty() || messages[0].role != "system")) messages.insert(messages.begin(), {"system", system, 1, ""});
  record.conversation.tools_json = tools_field(row);
}

void read_messages(const Json& row, Record& record) {
  if (!row["messages"].is_array()) throw BadRow{"\"messages\" must be a list"};
  for (const Json& turn : row["messages"]) {
    if (!turn.is_object()) throw BadRow{"\"messages\" must hold objects {role, content}"};
    Message m{text_field(turn, "role", true), turn.contains("content") ? content_of(turn["content"]) : "", weight_of(turn), ""};
    if (m.role == "developer") m.role = "system";
    if (m.role == "function") m.role = "tool";
    Json extra = Json::object();
    for (const auto& [key, value] : turn.items())
      if (key == "tool_calls" || key == "reasoning_content" || key == "name" || key == "tool_call_id") extra[key] = value;
    if (!extra.empty()) m.extra_json = extra.dump();
    record.conversation.messages.push_back(std::move(m));
  }
  record.conversation.tools_json = tools_field(row);
}

void check_conversation(const Record& record) {
  bool answer = false, question = false;
  for (const Message& m : record.conversation.messages) {
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool")
      throw BadRow{fmt::format("unknown role \"{}\"; known are system, user, assistant, tool", m.role)};
    question |= m.role == "user";
    answer |= m.role == "assistant" && (!m.content.empty() || !m.extra_json.empty());
  }
  if (record.conversation.messages.empty()) throw BadRow{"the conversation is empty"};
  if (!answer) throw BadRow{"no answer to learn from: no assistant message has content"};
  if (!question) throw BadRow{"no user message"};
}

Record read_row(const Json& row, const ReadOptions& options) {
  if (!row.is_object()) throw BadRow{"a row must be a JSON object"};
  Record record;
  if (row.contains("conversations")) read_sharegpt(row, record);
  else if (row.contains("messages")) read_messages(row, record);
  else if (row.contains("instruction")) read_alpaca(row, record);
  else if (row.contains("text")) record.text = text_field(row, "text", true);
  else
    throw BadRow{"unknown shape: expected \"text\", \"instruction\"/\"output\", \"conversations\" or \"messages\""};
  if (record.is_conversation()) {
    if (options.pretraining) throw BadRow{"stage pt needs rows with \"text\"; conversations belong to stage sft"};
    check_conversation(record);
  } else if (row.contains("text")) {
    if (record.text.find_first_not_of(" \t\r\n") == std::string::npos) throw BadRow{"the text is empty"};
  } else {
    throw BadRow{"the conversation is empty"};
  }
  return record;
}

enum class Kind { lines_of_text, json_lines, json_list };

Kind kind_of(const std::filesystem::path& file, std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) refuse("{}: the file is empty", file.string());
  const bool text = file.extension() == ".txt" || file.extension() == ".md";
  if (content[first] == '[' && !text) return Kind::json_list;
  // Rows in a file named .txt are rows, but a text may begin with a brace.
  if (content[first] == '{' && (!text || Json::accept(split_lines(content)[0].text))) return Kind::json_lines;
  if (text) return Kind::lines_of_text;
  const auto byte = static_cast<unsigned char>(content[first]);
  if (byte >= 0xFE) refuse("{}: the file is UTF-16; save it as UTF-8", file.string());
  refuse("{}: not JSON (begins with {}) and not a .txt file. Expected JSONL, a JSON list or plain text", file.string(),
         byte > 0x20 && byte < 0x7F ? fmt::format("'{}'", content[first]) : fmt::format("byte 0x{:02X}", byte));
}

// What is wrong with a row's JSON, without the place and the parser's detail, so that rows with the same fault count as one.
std::string json_reason(std::string message, const std::string& where) {
  if (message.starts_with(where + ": ")) message.erase(0, where.size() + 2);
  const std::string plain = "not valid JSON";
  return message.starts_with(plain) && message.find("NUL") == std::string::npos ? plain : message;
}

}  // namespace

void read_records(const std::filesystem::path& file, const ReadOptions& options, Records& records, DataReport& report) {
  if (!fs::exists(file)) refuse("dataset: {} does not exist", file.string());
  if (!fs::is_regular_file(file)) refuse("dataset: {}: not a regular file", file.string());
  std::string content = read_file(file, uint64_t{1} << 40);
  std::string_view view = content;
  if (view.starts_with("\xEF\xBB\xBF")) view.remove_prefix(3);
  const Kind kind = kind_of(file, view);
  if (kind == Kind::lines_of_text && !options.pretraining)
    refuse("{}: plain text is for stage pt; stage sft needs rows with questions and answers", file.string());
  const auto index = static_cast<int32_t>(records.files.size());
  records.files.push_back(file.string());
  const std::vector<Piece> pieces = kind == Kind::json_list ? split_list(view, file.string()) : split_lines(view);
  const size_t before = records.rows.size();
  int64_t read = 0;
  std::string first_reason;
  for (const Piece& piece : pieces) {
    if (options.max_samples > 0 && read >= options.max_samples) break;
    ++read;
    const Source source{index, piece.line};
    try {
      Record record;
      if (kind == Kind::lines_of_text) record.text = std::string(piece.text);
      else record = read_row(parse_json(piece.text, records.where(source)), options);
      record.source = source;
      records.rows.push_back(std::move(record));
    } catch (const BadRow& bad) {
      if (first_reason.empty()) first_reason = records.where(source) + ": " + bad.reason;
      report.add(DataReport::Action::dropped, bad.reason, records.where(source));
    } catch (const Error& e) {
      if (first_reason.empty()) first_reason = e.what();
      report.add(DataReport::Action::dropped, json_reason(e.what(), records.where(source)), records.where(source));
    }
  }
  records.rows_read += read;
  if (records.rows.size() == before)
    refuse("{}: none of its {} rows can be used; the first: {}", file.string(), read, first_reason);
}

}  // namespace attune::data
