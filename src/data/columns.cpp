#include "data/columns.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/turns.h"

namespace attune::data {

using text::Message;

const Names kQuestions{"instruction", "prompt", "question", "query", "problem"};
const Names kAnswers{"output", "response", "answer", "completion", "solution"};
const Names kConversations{"conversations", "messages", "conversation"};

namespace {

void add_history(const Json& row, const std::string& key, std::vector<Message>& messages) {
  if (!has(row, key)) return;
  for (const Json& turn : row[key]) {
    if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
      throw BadRow{fmt::format("\"{}\" must be a list of [question, answer] pairs", key)};
    messages.push_back({"user", turn[0].get<std::string>(), 1, ""});
    messages.push_back({"assistant", turn[1].get<std::string>(), 1, ""});
  }
}

[[noreturn]] void ambiguous(const std::string& what, const std::string& question, const std::string& answer) {
  throw BadRow{fmt::format("{}; say which columns are meant in dataset_info.json: \"columns\": {{\"prompt\": \"{}\", \"{}\": \"{}\"}} "
                           "(\"query\" names a column that follows the prompt)", what, question, answer == "chosen" ? answer : "response", answer)};
}

std::string mapped(const Json& row, const std::string& column, const char* meaning, const Mapping& mapping) {
  check_mapped(row, column, meaning, mapping);
  return text_field(row, column, true);
}

}  // namespace

bool has(const Json& row, const std::string& key) { return !key.empty() && row.contains(key) && !row[key].is_null(); }

Names present(const Json& row, const Names& keys) {
  Names out;
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(out), [&](const std::string& key) { return has(row, key); });
  return out;
}

std::string first_of(const Json& row, const Names& keys) {
  const Names found = present(row, keys);
  return found.empty() ? "" : found[0];
}

std::string keys_of(const Json& row) {
  Names keys;
  for (const auto& [key, value] : row.items()) keys.push_back("\"" + key + "\"");
  return keys.empty() ? "no columns" : fmt::format("{}", fmt::join(keys, ", "));
}

bool is_messages(const Json& row, const std::string& key) {
  return has(row, key) && row[key].is_array() && !row[key].empty() && row[key][0].is_object();
}

std::string text_field(const Json& row, const std::string& key, bool required) {
  if (!has(row, key)) {
    if (required) throw BadRow{fmt::format("\"{}\" is missing", key)};
    return "";
  }
  if (!row[key].is_string()) throw BadRow{fmt::format("\"{}\" must be a string", key)};
  return row[key].get<std::string>();
}

std::string tools_field(const Json& row, const std::string& key) {
  if (!has(row, key)) return "";
  return row[key].is_string() ? row[key].get<std::string>() : dump_json(row[key]);
}

void check_mapped(const Json& row, const std::string& column, const char* meaning, const Mapping& mapping) {
  if (!row.contains(column))
    throw BadRow{fmt::format("the column \"{}\" ({} in {}) is missing; the row has {}", column, meaning, mapping.where, keys_of(row))};
}

void add_system(const std::string& system, std::vector<Message>& messages) {
  if (!system.empty() && (messages.empty() || messages[0].role != "system")) messages.insert(messages.begin(), {"system", system, 1, ""});
}

std::string joined(const std::string& question, const std::string& input) {
  return question + (question.empty() || input.empty() ? "" : "\n") + input;
}

Exchange detect_exchange(const Json& row, const Names& answer_columns) {
  const Names questions = present(row, kQuestions), answers = present(row, answer_columns);
  const auto contains = [&](const std::string& key) { return row.contains(key); };
  const std::string an_answer = answers.empty() ? answer_columns[0] : answers[0];
  Exchange names;
  names.system = first_of(row, {"system", "system_prompt"});
  names.history = "history";
  if (questions.size() > 1) ambiguous(fmt::format("\"{}\" and \"{}\" could both be the question", questions[0], questions[1]), questions[1], an_answer);
  if (answers.size() > 1) ambiguous(fmt::format("\"{}\" and \"{}\" could both be the answer", answers[0], answers[1]), questions.empty() ? "input" : questions[0], answers[1]);
  names.question = questions.empty() ? "instruction" : questions[0];
  if (has(row, "input")) {
    if (names.question != "instruction") ambiguous(fmt::format("\"{}\" and \"input\" could both be the question", names.question), names.question, an_answer);
    names.input = "input";
  }
  const auto named = std::find_if(answer_columns.begin(), answer_columns.end(), contains);
  names.answer = !answers.empty() ? answers[0] : named != answer_columns.end() ? *named : answer_columns[0];
  if (has(row, "context") && !row["context"].empty() && row["context"] != "")
    ambiguous("\"context\" stands beside question and answer and would be lost", names.question, names.answer);
  if (has(row, "A") && has(row, "B") && has(row, "C"))
    throw BadRow{"a multiple-choice exam: the choices in the columns A, B, C … would be lost; write them into the question"};
  return names;
}

std::vector<Message> read_question(const Json& row, const Exchange& names) {
  std::vector<Message> messages;
  const bool need_question = !has(row, names.input);
  const std::string system = text_field(row, names.system, false);
  add_history(row, names.history, messages);
  messages.push_back({"user", joined(text_field(row, names.question, need_question), text_field(row, names.input, false)), 1, ""});
  add_system(system, messages);
  return messages;
}

std::vector<Message> read_mapped_question(const Json& row, const Mapping& mapping) {
  const std::string question = mapping.prompt.empty() ? "" : mapped(row, mapping.prompt, "prompt", mapping);
  std::vector<Message> messages;
  add_history(row, mapping.history, messages);
  messages.push_back({"user", joined(question, text_field(row, mapping.query, mapping.prompt.empty())), 1, ""});
  add_system(text_field(row, mapping.system, false), messages);
  return messages;
}

std::string conversation_column(const Json& row) {
  const Names conversations = present(row, kConversations);
  if (conversations.size() > 1)
    throw BadRow{fmt::format("\"{}\" and \"{}\" could both be the conversation; say which in dataset_info.json: \"formatting\": \"sharegpt\", "
                             "\"columns\": {{\"messages\": \"{}\"}}", conversations[0], conversations[1], conversations[0])};
  return conversations.empty() ? "" : conversations[0];
}

std::vector<Message> read_conversation(const Json& row, const std::string& column, Notes& notes) {
  std::vector<Message> messages = read_turns(row[column], column, {}, notes);
  add_system(text_field(row, first_of(row, {"system", "system_prompt"}), false), messages);
  return messages;
}

std::vector<Message> read_mapped_conversation(const Json& row, const Mapping& mapping, Notes& notes) {
  check_mapped(row, mapping.messages, "messages", mapping);
  std::vector<Message> messages = read_turns(row[mapping.messages], mapping.messages, mapping, notes);
  add_system(text_field(row, mapping.system, false), messages);
  return messages;
}

std::vector<Message> read_answer(const Json& row, const std::string& column, const Mapping& mapping, Notes& notes) {
  if (!has(row, column)) throw BadRow{fmt::format("\"{}\" is missing", column)};
  const Json& value = row[column];
  if (value.is_string()) return {{"assistant", value.get<std::string>(), 1, ""}};
  if (value.is_object()) return read_turns(Json::array({value}), column, mapping, notes);
  if (is_messages(row, column)) return read_turns(value, column, mapping, notes);
  throw BadRow{fmt::format("\"{}\" must be a text, a message, or a list of messages", column)};
}

}  // namespace attune::data
