#include "data/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/columns.h"
#include "data/pairs.h"
#include "data/turns.h"

namespace attune::data {
namespace {

using text::Message;
using Action = DataReport::Action;
using Formatting = Mapping::Formatting;

bool by_mapping(const Mapping& mapping) { return mapping.explicit_columns || mapping.formatting != Formatting::detect; }

// What a row is, and the column that says so.
struct Found {
  RowKind kind;
  std::string column;
};

std::optional<Found> kind_of(const Json& row) {
  for (const char* key : {"chosen", "rejected", "rejected_response", "rejected_messages"})
    if (has(row, key)) return Found{RowKind::pair, key};
  if (const std::string column = list_of_two(row); !column.empty()) return Found{RowKind::pair, column};
  for (const char* key : {"kto_tag", "label"})
    if (has(row, key) && row[key].is_boolean()) return Found{RowKind::judged, key};
  if (const std::string column = first_of(row, kConversations); !column.empty()) return Found{RowKind::conversation, column};
  if (const std::string column = first_of(row, kAnswers); !column.empty()) return Found{RowKind::conversation, column};
  if (has(row, "text")) return Found{RowKind::text, "text"};
  return std::nullopt;
}

[[noreturn]] void wrong_kind(const Found& found, RowKind wanted) {
  std::string advice;
  if (wanted == RowKind::conversation && found.kind == RowKind::pair) advice = ". To learn one side, name its columns in dataset_info.json";
  if (wanted == RowKind::conversation && found.kind == RowKind::judged) advice = ". Bad answers would be learnt like good ones";
  throw BadRow{fmt::format("it has \"{}\" like {}, which are for stage {}; stage {} needs {}{}", found.column, description_of(found.kind),
                           stages_of(found.kind), stages_of(wanted), description_of(wanted), advice)};
}

// TRL's prompt and completion, where one of them is a list of messages. A completion may hold the whole conversation.
std::vector<Message> read_completion(const Json& row, Notes& notes) {
  const std::vector<Message> answer = read_answer(row, "completion", {}, notes);
  std::vector<Message> messages;
  if (is_messages(row, "prompt")) messages = read_turns(row["prompt"], "prompt", {}, notes);
  else if (answer[0].role == "assistant") messages = read_question(row, detect_exchange(row, kAnswers));
  messages.insert(messages.end(), answer.begin(), answer.end());
  return messages;
}

// Whether the row is plain text.
bool detect(const Json& row, RowKind kind, Record& record, Notes& notes) {
  if (kind == RowKind::text && has(row, "text")) {
    record.text = text_field(row, "text", true);
    return true;
  }
  if (const auto found = kind_of(row); found && found->kind >= RowKind::pair && found->kind != kind) wrong_kind(*found, kind);
  auto& messages = record.conversation.messages;
  const std::string conversation = conversation_column(row);
  const auto known = [&](const Names& keys) { return std::any_of(keys.begin(), keys.end(), [&](const std::string& key) { return row.contains(key); }); };
  if (!conversation.empty()) {
    messages = read_conversation(row, conversation, notes);
  } else if (has(row, "completion") && (is_messages(row, "prompt") || is_messages(row, "completion"))) {
    messages = read_completion(row, notes);
  } else if (!present(row, kQuestions).empty() || (has(row, "input") && known(kAnswers)) || row.contains("instruction")) {
    const Exchange names = detect_exchange(row, kAnswers);
    messages = read_question(row, names);
    messages.push_back({"assistant", text_field(row, names.answer, true), 1, ""});
  } else if (kind != RowKind::judged && has(row, "text") && has(row, "label")) {
    messages = read_question(row, {"text", "", "", "", ""});
    messages.push_back({"assistant", text_field(row, "label", true), 1, ""});
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

bool read_mapped(const Json& row, const Mapping& mapping, RowKind kind, Record& record, Notes& notes) {
  auto& messages = record.conversation.messages;
  if (mapping.formatting == Formatting::sharegpt || mapping.formatting == Formatting::openai) {
    messages = read_mapped_conversation(row, mapping, notes);
  } else {
    messages = read_mapped_question(row, mapping);
    if (kind == RowKind::text || mapping.response.empty()) {
      record.text = messages.back().content;
      messages.clear();
      return true;
    }
    check_mapped(row, mapping.response, "response", mapping);
    messages.push_back({"assistant", text_field(row, mapping.response, true), 1, ""});
  }
  record.conversation.tools_json = tools_field(row, mapping.tools);
  return false;
}

// Tables have no other true than a text.
bool judgement(const Json& row, const Mapping& mapping) {
  std::string column = mapping.kto_tag.empty() ? first_of(row, {"kto_tag", "label"}) : mapping.kto_tag;
  if (!mapping.kto_tag.empty()) check_mapped(row, column, "kto_tag", mapping);
  if (!has(row, column)) {
    const auto found = kind_of(row);
    wrong_kind(found ? *found : Found{RowKind::conversation, first_of(row, kQuestions)}, RowKind::judged);
  }
  const Json& value = row[column];
  if (value.is_boolean()) return value.get<bool>();
  if (value == 0 || value == 1) return value == 1;
  if (value.is_string())
    for (const auto& [text, is] : {std::pair{"true", true}, {"True", true}, {"1", true}, {"false", false}, {"False", false}, {"0", false}})
      if (value == text) return is;
  throw BadRow{fmt::format("\"{}\" must be true (a good answer) or false", column)};
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

void read_one_side(const Json& row, const Mapping& mapping, RowKind kind, Record& record, Notes& notes) {
  if (kind == RowKind::judged) record.desirable = judgement(row, mapping);
  if (by_mapping(mapping) ? read_mapped(row, mapping, kind, record, notes) : detect(row, kind, record, notes)) {
    if (kind == RowKind::judged) wrong_kind({RowKind::text, "text"}, kind);
    if (record.text.find_first_not_of(" \t\r\n") == std::string::npos) throw BadRow{"the text is empty"};
    return;
  }
  if (kind == RowKind::text) wrong_kind(kind_of(row).value_or(Found{RowKind::conversation, first_of(row, kQuestions)}), kind);
  mend(record.conversation, notes);
  if (kind == RowKind::judged) record.prompt_messages = record.conversation.messages.size() - 1;
}

}  // namespace

Record read_row(const Json& row, const Mapping& mapping, RowKind kind, Notes& notes) {
  if (!row.is_object()) throw BadRow{"a row must be a JSON object"};
  Record record;
  if (kind == RowKind::pair) {
    if (const auto found = kind_of(row); !by_mapping(mapping) && found && found->kind != kind) wrong_kind(*found, kind);
    read_pair(row, mapping, record, notes);
  } else {
    read_one_side(row, mapping, kind, record, notes);
  }
  record.weight = row_weight(row);
  note_placeholders(record, notes);
  return record;
}

const std::vector<std::string>& known_columns() {
  static const Names names = [] {
    Names all{"input", "text", "label", "kto_tag", "system", "system_prompt", "history", "chosen", "rejected", "rejected_response", "margin"};
    all.insert(all.end(), kQuestions.begin(), kQuestions.end());
    all.insert(all.end(), kAnswers.begin(), kAnswers.end());
    return all;
  }();
  return names;
}

}  // namespace attune::data
