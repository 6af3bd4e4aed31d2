#include "data/shapes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/turns.h"

namespace attune::data {
namespace {

using text::Message;
using Action = DataReport::Action;
using Formatting = Mapping::Formatting;
using Names = std::vector<std::string>;

// `instruction` may have an `input` behind it; the others are questions on their own.
const Names kQuestions{"instruction", "prompt", "question", "query", "problem"};
const Names kAnswers{"output", "response", "answer", "completion", "solution"};
const Names kConversations{"conversations", "messages", "conversation"};

bool has(const Json& row, const std::string& key) { return !key.empty() && row.contains(key) && !row[key].is_null(); }

Names present(const Json& row, const Names& keys) {
  Names out;
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(out), [&](const std::string& key) { return has(row, key); });
  return out;
}

std::string keys_of(const Json& row) {
  Names keys;
  for (const auto& [key, value] : row.items()) keys.push_back("\"" + key + "\"");
  return keys.empty() ? "no columns" : fmt::format("{}", fmt::join(keys, ", "));
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

void add_system(const std::string& system, std::vector<Message>& messages) {
  // A system turn wins over the column: one system message, not two.
  if (!system.empty() && (messages.empty() || messages[0].role != "system")) messages.insert(messages.begin(), {"system", system, 1, ""});
}

void add_history(const Json& row, const std::string& key, std::vector<Message>& messages) {
  if (!has(row, key)) return;
  for (const Json& turn : row[key]) {
    if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
      throw BadRow{fmt::format("\"{}\" must be a list of [question, answer] pairs", key)};
    messages.push_back({"user", turn[0].get<std::string>(), 1, ""});
    messages.push_back({"assistant", turn[1].get<std::string>(), 1, ""});
  }
}

std::string joined(const std::string& question, const std::string& input) {
  return question + (question.empty() || input.empty() ? "" : "\n") + input;
}

// A question and its answer, in columns of these names.
struct Pair {
  std::string question, input, answer, system, history;
};

void read_pair(const Json& row, const Pair& names, Record& record) {
  auto& messages = record.conversation.messages;
  const bool need_question = !has(row, names.input);
  const std::string system = text_field(row, names.system, false);
  add_history(row, names.history, messages);
  messages.push_back({"user", joined(text_field(row, names.question, need_question), text_field(row, names.input, false)), 1, ""});
  messages.push_back({"assistant", text_field(row, names.answer, true), 1, ""});
  add_system(system, messages);
}

[[noreturn]] void ambiguous(const std::string& what, const std::string& question, const std::string& answer) {
  throw BadRow{fmt::format("{}; say which columns are meant in dataset_info.json: \"columns\": {{\"prompt\": \"{}\", \"response\": \"{}\"}} "
                           "(\"query\" names a column that follows the prompt)", what, question, answer)};
}

void check_other_stages(const Json& row) {
  for (const char* key : {"chosen", "rejected", "rejected_response", "rejected_messages"})
    if (has(row, key)) throw BadRow{fmt::format("preference data (it has \"{}\"), which is not for stage sft; to learn one side, name its columns in dataset_info.json", key)};
  for (const char* key : {"label", "kto_tag"})
    if (has(row, key) && row[key].is_boolean()) throw BadRow{fmt::format("KTO data (\"{}\" is true or false): bad answers would be learnt like good ones; it is not for stage sft", key)};
}

std::string first_of(const Json& row, const Names& keys) {
  const Names found = present(row, keys);
  return found.empty() ? "" : found[0];
}

// The only conversation, question and answer column of the row; BadRow where several could be meant.
void detect_conversation(const Json& row, const std::string& column, Record& record, Notes& notes) {
  record.conversation.messages = read_turns(row[column], column, {}, notes);
  add_system(text_field(row, first_of(row, {"system", "system_prompt"}), false), record.conversation.messages);
}

void detect_pair(const Json& row, Record& record) {
  const Names questions = present(row, kQuestions), answers = present(row, kAnswers);
  const auto contains = [&](const std::string& key) { return row.contains(key); };
  Pair pair;
  pair.system = first_of(row, {"system", "system_prompt"});
  pair.history = "history";
  if (questions.size() > 1) ambiguous(fmt::format("\"{}\" and \"{}\" could both be the question", questions[0], questions[1]), questions[1], answers.empty() ? "output" : answers[0]);
  if (answers.size() > 1) ambiguous(fmt::format("\"{}\" and \"{}\" could both be the answer", answers[0], answers[1]), questions.empty() ? "input" : questions[0], answers[1]);
  pair.question = questions.empty() ? "instruction" : questions[0];
  if (has(row, "input")) {
    if (pair.question != "instruction") ambiguous(fmt::format("\"{}\" and \"input\" could both be the question", pair.question), pair.question, answers.empty() ? "output" : answers[0]);
    pair.input = "input";
  }
  const auto named = std::find_if(kAnswers.begin(), kAnswers.end(), contains);
  pair.answer = !answers.empty() ? answers[0] : named != kAnswers.end() ? *named : "output";
  if (has(row, "context") && !row["context"].empty() && row["context"] != "")
    ambiguous("\"context\" stands beside question and answer and would be lost", pair.question, pair.answer);
  if (has(row, "A") && has(row, "B") && has(row, "C"))
    throw BadRow{"a multiple-choice exam: the choices in the columns A, B, C … would be lost; write them into the question"};
  read_pair(row, pair, record);
}

bool is_messages(const Json& row, const char* key) { return has(row, key) && row[key].is_array() && !row[key].empty() && row[key][0].is_object(); }

// Whether the row is plain text.
bool detect(const Json& row, bool pretraining, Record& record, Notes& notes) {
  if (pretraining && has(row, "text")) {
    record.text = text_field(row, "text", true);
    return true;
  }
  check_other_stages(row);
  const Names conversations = present(row, kConversations);
  const auto known = [&](const Names& keys) { return std::any_of(keys.begin(), keys.end(), [&](const std::string& key) { return row.contains(key); }); };
  if (conversations.size() > 1)
    throw BadRow{fmt::format("\"{}\" and \"{}\" could both be the conversation; say which in dataset_info.json: \"formatting\": \"sharegpt\", "
                             "\"columns\": {{\"messages\": \"{}\"}}", conversations[0], conversations[1], conversations[0])};
  if (!conversations.empty()) detect_conversation(row, conversations[0], record, notes);
  else if (is_messages(row, "prompt") && is_messages(row, "completion")) {
    record.conversation.messages = read_turns(row["prompt"], "prompt", {}, notes);
    for (Message& m : read_turns(row["completion"], "completion", {}, notes)) record.conversation.messages.push_back(std::move(m));
  } else if (!present(row, kQuestions).empty() || (has(row, "input") && known(kAnswers)) || row.contains("instruction")) {
    detect_pair(row, record);
  } else if (has(row, "text") && has(row, "label")) {
    read_pair(row, {"text", "", "label", "", ""}, record);
  } else if (row.contains("text")) {
    record.text = text_field(row, "text", true);
    if (row.size() > 1) notes.push_back({Action::noted, "only \"text\" is learnt, all of it, as plain text; the other columns are not used"});
    return true;
  } else if (known(kConversations)) {
    throw BadRow{fmt::format("\"{}\" must be a list", *std::find_if(kConversations.begin(), kConversations.end(), [&](const auto& key) { return row.contains(key); }))};
  } else {
    throw BadRow{fmt::format("unknown shape: expected \"text\", \"instruction\"/\"output\", \"conversations\" or \"messages\"; the row has {}. "
                             "Say in dataset_info.json which columns are meant", keys_of(row))};
  }
  record.conversation.tools_json = tools_field(row, "tools");
  return false;
}

std::string mapped(const Json& row, const std::string& column, const char* meaning, const Mapping& mapping) {
  if (!row.contains(column))
    throw BadRow{fmt::format("the column \"{}\" ({} in {}) is missing; the row has {}", column, meaning, mapping.where, keys_of(row))};
  return text_field(row, column, true);
}

bool read_mapped(const Json& row, const Mapping& mapping, bool pretraining, Record& record, Notes& notes) {
  auto& messages = record.conversation.messages;
  if (mapping.formatting == Formatting::sharegpt || mapping.formatting == Formatting::openai) {
    if (!row.contains(mapping.messages)) mapped(row, mapping.messages, "messages", mapping);
    messages = read_turns(row[mapping.messages], mapping.messages, mapping, notes);
  } else {
    const bool text = pretraining || mapping.response.empty();
    std::string question = mapping.prompt.empty() ? "" : mapped(row, mapping.prompt, "prompt", mapping);
    question = joined(question, text_field(row, mapping.query, mapping.prompt.empty()));
    if (text) {
      record.text = question;
      return true;
    }
    add_history(row, mapping.history, messages);
    messages.push_back({"user", question, 1, ""});
    messages.push_back({"assistant", mapped(row, mapping.response, "response", mapping), 1, ""});
  }
  add_system(text_field(row, mapping.system, false), messages);
  record.conversation.tools_json = tools_field(row, mapping.tools);
  return false;
}

float row_weight(const Json& row) {
  if (!has(row, "weight")) return 1.0f;
  const Json& weight = row["weight"];
  double value = -1;
  if (weight.is_number()) value = weight.get<double>();
  if (weight.is_string()) {
    char* end = nullptr;
    const std::string& text = weight.get_ref<const std::string&>();
    value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != 0) value = -1;
  }
  if (!(value >= 0 && value <= 1e3)) throw BadRow{"\"weight\" of the row must be a number from 0 to 1000 (rename the column if it is none)"};
  return static_cast<float>(value);
}

void note_placeholders(const Record& record, Notes& notes) {
  for (const Message& m : record.conversation.messages) {
    if (m.content.find("{{name}}") == std::string::npos && m.content.find("{{author}}") == std::string::npos) continue;
    notes.push_back({Action::noted, "the placeholders {{name}} and {{author}} stand in the text and are learnt as they are; replace them first"});
    return;
  }
}

}  // namespace

Record read_row(const Json& row, const Mapping& mapping, bool pretraining, Notes& notes) {
  if (!row.is_object()) throw BadRow{"a row must be a JSON object"};
  Record record;
  const bool is_mapped = mapping.explicit_columns || mapping.formatting != Formatting::detect;
  const bool is_text = is_mapped ? read_mapped(row, mapping, pretraining, record, notes) : detect(row, pretraining, record, notes);
  record.weight = row_weight(row);
  if (!is_text) {
    if (pretraining) throw BadRow{"stage pt needs rows with \"text\"; conversations belong to stage sft"};
    mend(record.conversation, notes);
    note_placeholders(record, notes);
  } else if (record.text.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw BadRow{"the text is empty"};
  }
  return record;
}

const std::vector<std::string>& known_columns() {
  static const Names names = [] {
    Names all{"input", "text", "label", "system", "system_prompt", "history"};
    all.insert(all.end(), kQuestions.begin(), kQuestions.end());
    all.insert(all.end(), kAnswers.begin(), kAnswers.end());
    return all;
  }();
  return names;
}

}  // namespace attune::data
