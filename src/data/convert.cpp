#include "data/convert.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "util/error.h"

namespace attune::data {
namespace {

using text::Message;
using Action = DataReport::Action;

Json extra_of(const Message& m) { return m.extra_json.empty() ? Json::object() : parse_json(m.extra_json, "message"); }

void lose(const std::string& what, Notes& lost) {
  const std::pair note{Action::noted, what + " cannot be said in this format and is left out"};
  if (std::find(lost.begin(), lost.end(), note) == lost.end()) lost.push_back(note);
}

void lose_extras(const Json& extra, const std::set<std::string>& kept, Notes& lost) {
  for (const auto& [key, value] : extra.items())
    if (!kept.count(key) && !value.is_null()) lose("\"" + key + "\"", lost);
}

void set_weight(Json& row, float weight) {
  if (weight != 1) row["weight"] = weight;
}

Json messages_of(std::span<const Message> turns) {
  Json messages = Json::array();
  for (const Message& m : turns) {
    Json turn = {{"role", m.role}, {"content", m.content}};
    const Json extra = extra_of(m);
    for (const auto& [key, value] : extra.items()) turn[key] = value;
    if (m.role == "assistant") set_weight(turn, m.weight);
    messages.push_back(turn);
  }
  return messages;
}

void set_tools(Json& row, const std::string& tools) {
  if (!tools.empty()) row["tools"] = Json::accept(tools) ? parse_json(tools, "tools") : Json(tools);
}

Json as_messages(const Record& record) {
  Json row = {{"messages", messages_of(record.conversation.messages)}};
  set_tools(row, record.conversation.tools_json);
  return row;
}

// What is of either kind has a prompt that ends before its answer.
Json as_answers(const Record& record, Format format) {
  const std::span all(record.conversation.messages);
  Json row = {{"prompt", messages_of(all.first(record.prompt_messages))}};
  row[format == Format::kto ? "completion" : "chosen"] = messages_of(all.subspan(record.prompt_messages));
  if (format == Format::kto) row["label"] = *record.desirable;
  else row["rejected"] = messages_of(record.rejected);
  if (record.margin) row["margin"] = *record.margin;
  set_tools(row, record.conversation.tools_json);
  return row;
}

// {name, arguments} of each call, without what only the OpenAI form has.
std::string calls_text(const Json& calls) {
  Json out = Json::array();
  for (const Json& call : calls.is_array() ? calls : Json::array({calls})) out.push_back(call.is_object() && call.contains("function") ? call["function"] : call);
  return dump_json(out.size() == 1 ? out[0] : out);
}

Json as_sharegpt(const Record& record, Notes& lost) {
  Json turns = Json::array();
  const auto add = [&](const char* from, const std::string& value, const Message& m) {
    Json turn = {{"from", from}, {"value", value}};
    if (m.role == "assistant") set_weight(turn, m.weight);
    turns.push_back(turn);
  };
  for (const Message& m : record.conversation.messages) {
    const Json extra = extra_of(m);
    lose_extras(extra, {"tool_calls"}, lost);
    const bool calls = extra.contains("tool_calls") && !extra["tool_calls"].is_null();
    if (m.role == "assistant") {
      if (!calls || !m.content.empty()) add("gpt", m.content, m);
      if (calls) add("function_call", calls_text(extra["tool_calls"]), m);
    } else {
      add(m.role == "user" ? "human" : m.role == "tool" ? "observation" : "system", m.content, m);
    }
  }
  Json row = {{"conversations", turns}};
  if (!record.conversation.tools_json.empty()) row["tools"] = record.conversation.tools_json;
  return row;
}

Json as_alpaca(const Record& record, Notes& lost) {
  std::string system;
  std::vector<const Message*> turns;
  for (const Message& m : record.conversation.messages) {
    if (m.role == "tool" || extra_of(m).contains("tool_calls")) throw BadRow{"alpaca cannot say tool calls; convert to sharegpt or messages"};
    lose_extras(extra_of(m), {}, lost);
    if (m.role == "system" && turns.empty()) system += (system.empty() ? "" : "\n") + m.content;
    else if (m.role == "system") lose("a system message between the turns", lost);
    else if (m.role != (turns.size() % 2 ? "assistant" : "user")) throw BadRow{"alpaca needs questions and answers in turns; convert to sharegpt or messages"};
    else turns.push_back(&m);
    if (m.role == "assistant" && m.weight != 1) lose("the loss weight of a turn", lost);
  }
  if (turns.size() < 2) throw BadRow{"no question with an answer"};
  Json row = Json::object(), history = Json::array();
  row["instruction"] = turns[turns.size() - 2]->content;
  row["input"] = "";
  row["output"] = turns.back()->content;
  for (size_t i = 0; i + 2 < turns.size(); i += 2) history.push_back({turns[i]->content, turns[i + 1]->content});
  if (!system.empty()) row["system"] = system;
  if (!history.empty()) row["history"] = history;
  if (!record.conversation.tools_json.empty()) lose("\"tools\"", lost);
  return row;
}

Json as_text(const Record& record, Notes& lost) {
  if (!record.is_conversation()) return {{"text", record.text}};
  std::string text;
  for (const Message& m : record.conversation.messages) {
    lose_extras(extra_of(m), {}, lost);
    if (!m.content.empty()) text += (text.empty() ? "" : "\n") + m.content;
    if (m.role == "assistant" && m.weight != 1) lose("the loss weight of a turn", lost);
  }
  lose("who says what", lost);
  if (!record.conversation.tools_json.empty()) lose("\"tools\"", lost);
  return {{"text", text}};
}

}  // namespace

Format parse_format(const std::string& name, const std::string& option) {
  for (const auto& [known, format] : {std::pair{"alpaca", Format::alpaca}, {"sharegpt", Format::sharegpt}, {"messages", Format::messages}, {"text", Format::text},
                                     {"preference", Format::preference}, {"kto", Format::kto}})
    if (name == known) return format;
  refuse("{}: unknown format \"{}\"; known are alpaca, sharegpt, messages, text, preference, kto", option, name);
}

RowKind kind_of(Format format) {
  return format == Format::preference ? RowKind::pair : format == Format::kto ? RowKind::judged : RowKind::conversation;
}

Mapping mapping_of(Format format) {
  Mapping m;
  if (kind_of(format) != RowKind::conversation) return m;  // their columns have one name only
  m.where = "--from";
  m.formatting = format == Format::sharegpt ? Mapping::Formatting::sharegpt : format == Format::messages ? Mapping::Formatting::openai : Mapping::Formatting::alpaca;
  m.messages = format == Format::sharegpt ? "conversations" : "messages";
  m.system = "system";
  m.tools = "tools";
  m.history = "history";
  if (format == Format::text) {
    m.prompt = "text";
    m.query = m.response = "";
    m.explicit_columns = true;
    m.system = m.tools = m.history = "";
  }
  return m;
}

Json to_row(const Record& record, Format format, Notes& lost) {
  if (kind_of(format) != RowKind::conversation) {
    Json row = as_answers(record, format);
    set_weight(row, record.weight);
    return row;
  }
  if (!record.is_conversation() && format != Format::text) throw BadRow{"plain text has no question and no answer; convert it to text"};
  Json row = format == Format::messages   ? as_messages(record)
             : format == Format::sharegpt ? as_sharegpt(record, lost)
             : format == Format::alpaca   ? as_alpaca(record, lost)
                                          : as_text(record, lost);
  set_weight(row, record.weight);
  return row;
}

}  // namespace attune::data
