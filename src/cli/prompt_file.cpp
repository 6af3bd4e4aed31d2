#include "cli/prompt_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/sampling.h"
#include "data/file_rows.h"
#include "data/shapes.h"
#include "data/token_set.h"
#include "data/turns.h"
#include "util/error.h"

namespace attune::cli {
namespace {

using data::BadRow;

bool has(const Json& row, const char* key) { return row.contains(key) && !row[key].is_null(); }

std::string text_of(const Json& row, const char* key) {
  if (!has(row, key)) return "";
  if (!row[key].is_string()) throw BadRow{fmt::format("\"{}\" must be a string", key)};
  return row[key].get<std::string>();
}

// The column that holds the turns of a conversation; empty where there is none.
std::string turns_column(const Json& row) {
  for (const char* key : {"messages", "conversations", "conversation", "prompt"})
    if (has(row, key) && row[key].is_array()) return key;
  return "";
}

// What the row asks, and its answer where it has one.
struct Asked {
  std::string text;  // plain, or
  text::Conversation conversation;
  std::string label;
  bool has_label = false;
};

void take_answer(Asked& asked) {
  auto& messages = asked.conversation.messages;
  if (messages.empty() || messages.back().role != "assistant") return;
  asked.label = messages.back().content;
  asked.has_label = true;
  messages.pop_back();
}

Asked from_turns(const Json& row, const std::string& column) {
  Asked asked;
  data::Notes notes;
  asked.conversation.messages = data::read_turns(row[column], column, {}, notes);
  auto& messages = asked.conversation.messages;
  const std::string system = text_of(row, "system");
  if (!system.empty() && (messages.empty() || messages[0].role != "system")) messages.insert(messages.begin(), {"system", system, 1, ""});
  if (has(row, "tools")) asked.conversation.tools_json = row["tools"].is_string() ? row["tools"].get<std::string>() : dump_json(row["tools"]);
  take_answer(asked);
  if (messages.empty() || (messages.back().role != "user" && messages.back().role != "tool"))
    throw BadRow{fmt::format("\"{}\" must end with the user's message, or with the answer to it", column)};
  return asked;
}

// A question, read as training reads a question with its answer.
Asked from_pair(Json row) {
  Asked asked;
  static const char* const answers[] = {"output", "response", "answer", "completion", "solution"};
  const auto answer = std::find_if(std::begin(answers), std::end(answers), [&](const char* key) { return has(row, key) && row[key] != ""; });
  const bool missing = answer == std::end(answers);
  static const char* const questions[] = {"instruction", "input", "question", "query", "problem", "prompt"};
  if (missing && std::none_of(std::begin(questions), std::end(questions), [&](const char* key) { return has(row, key); }))
    throw BadRow{"nothing to answer: expected \"prompt\", \"instruction\", \"question\", \"messages\" or \"conversations\""};
  if (missing) {
    for (const char* key : answers) row.erase(key);
    row["output"] = "?";  // stands in for the answer, and is taken away again below
  }
  data::Notes notes;
  data::Record record = data::read_row(row, {}, data::RowKind::conversation, notes);
  if (!record.is_conversation()) throw BadRow{"a question was expected"};
  asked.conversation = std::move(record.conversation);
  take_answer(asked);
  if (missing) asked.label.clear(), asked.has_label = false;
  return asked;
}

Asked read(const Json& row) {
  if (row.is_string()) return {row.get<std::string>(), {}, "", false};
  if (!row.is_object()) throw BadRow{"a row must be a JSON object or a string"};
  if (const std::string column = turns_column(row); !column.empty()) return from_turns(row, column);
  // Beside these, "prompt" is a column of a question and its answer.
  static const char* const others[] = {"instruction", "input", "question", "query", "problem", "history", "system", "output", "response", "answer", "completion", "solution"};
  if (std::none_of(std::begin(others), std::end(others), [&](const char* key) { return has(row, key); }))
    for (const char* key : {"prompt", "text"})
      if (has(row, key)) return {text_of(row, key), {}, text_of(row, "label"), has(row, "label")};
  return from_pair(row);
}

// "adapter": whose answer is asked for.
std::optional<std::string> adapter_of(const Json& row, const PromptFileOptions& options) {
  if (!row.is_object() || text_of(row, "adapter").empty()) return std::nullopt;
  options.check_adapter(text_of(row, "adapter"));
  return text_of(row, "adapter");
}

void tokenize(Asked asked, const text::Tokenizer& tokenizer, const PromptFileOptions& options, PromptRow& out) {
  auto& messages = asked.conversation.messages;
  out.label = asked.label;
  out.has_label = asked.has_label;
  if (messages.empty() && !options.ask) {
    out.shown = asked.text;
    out.ids = raw_prompt(asked.text, tokenizer);
  } else {
    if (messages.empty()) messages.push_back({"user", asked.text, 1, ""});
    if (!options.chat) throw BadRow{"a conversation needs a chat template, and the model has none; choose one with --template"};
    const auto user = std::find_if(messages.rbegin(), messages.rend(), [](const auto& m) { return m.role == "user"; });
    if (user != messages.rend()) out.shown = user->content;
    if (!options.system.empty() && messages[0].role != "system") messages.insert(messages.begin(), {"system", options.system, 1, ""});
    out.ids = data::tokenize_prompt(asked.conversation, tokenizer, *options.chat);
  }
  if (out.ids.empty()) throw BadRow{"the prompt is empty and the tokenizer has no token to begin with"};
  if (options.context > 0 && static_cast<int64_t>(out.ids.size()) >= options.context)
    throw BadRow{fmt::format("the prompt has {} tokens, the model's context {} (max_position_embeddings): there is no room for an answer",
                             out.ids.size(), options.context)};
}

}  // namespace

std::vector<PromptRow> read_prompts(const std::string& file, const std::string& content, const text::Tokenizer& tokenizer, const PromptFileOptions& options) {
  std::string_view view = content;
  if (view.starts_with("\xEF\xBB\xBF")) view.remove_prefix(3);
  const data::FileRows rows = data::split_file(view, {file, true, data::known_columns()});
  std::vector<PromptRow> out;
  for (const auto& piece : rows.pieces) {
    if (rows.kind == data::FileRows::Kind::text && piece.text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    PromptRow row;
    row.where = fmt::format("{}:{}", file, piece.line);
    try {
      if (data::invalid_utf8(piece.text) != std::string_view::npos) throw BadRow{"invalid UTF-8"};
      Asked asked;
      if (rows.kind == data::FileRows::Kind::text) {
        asked.text = std::string(piece.text);
      } else {
        Json fields = data::parse_row(rows, piece, row.where);
        row.adapter = adapter_of(fields, options);
        if (fields.is_object()) fields.erase("adapter");
        asked = read(fields);
      }
      if (!asked.text.empty() && asked.text.back() == '\r') asked.text.pop_back();
      tokenize(std::move(asked), tokenizer, options, row);
    } catch (const BadRow& bad) {
      row.error = row.where + ": " + bad.reason;
    } catch (const Error& error) {  // the template refuses the conversation
      row.error = row.where + ": " + error.what();
    }
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace attune::cli
