#include "data/turns.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "util/error.h"

namespace attune::data {
namespace {

using text::Message;
using Action = DataReport::Action;

// A string, or a list of {"type": "text", "text"|"value": …} parts.
std::string content_of(const Json& content) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) throw BadRow{"message content must be a string or a list of text parts"};
  std::string all;
  for (const Json& part : content) {
    const bool is_text = part.is_object() && (!part.contains("type") || part["type"] == "text");
    const char* key = is_text && part.contains("text") ? "text" : "value";
    if (!is_text || !part.contains(key) || !part[key].is_string()) throw BadRow{"a message has a part that is not text; only text is supported"};
    all += part[key].get<std::string>();
  }
  return all;
}

std::optional<float> weight_of(const Json& message) {
  for (const char* key : {"weight", "loss_weight", "loss", "train"}) {
    if (!message.contains(key) || message[key].is_null()) continue;
    if (message[key].is_boolean()) return message[key].get<bool>() ? 1.0f : 0.0f;
    const double weight = message[key].is_number() ? message[key].get<double>() : -1;
    if (weight >= 0 && weight <= 1e3) return static_cast<float>(weight);
    throw BadRow{fmt::format("message \"{}\" must be true, false or a number from 0 to 1000", key)};
  }
  return std::nullopt;
}

std::string tool_calls(const std::string& value) {
  Json call, calls = Json::array();
  try {
    call = parse_json(value, "function_call");
  } catch (const Error&) {
    throw BadRow{"a function_call must hold JSON {name, arguments}"};
  }
  for (const Json& one : call.is_array() ? call : Json::array({call})) calls.push_back({{"type", "function"}, {"function", one}});
  return Json({{"tool_calls", calls}}).dump();
}

// How the turns of one list are written.
struct Style {
  std::string role_key, content_key;
  bool sharegpt;
};

Style style_of(const Json& turns, const Mapping& mapping) {
  if (!mapping.role_tag.empty()) return {mapping.role_tag, mapping.content_tag, mapping.formatting != Mapping::Formatting::openai};
  for (const Json& turn : turns) {
    if (!turn.is_object()) continue;
    if (turn.contains("from") || turn.contains("value")) return {"from", "value", true};
    if (turn.contains("role") || turn.contains("content")) return {"role", "content", false};
  }
  return {"from", "value", true};
}

// "user", "assistant", "tool", "system" or "function_call"; empty for a role nobody knows.
std::string role_of(const std::string& name, const Mapping& mapping) {
  const std::pair<const std::string*, const char*> tags[] = {{&mapping.user_tag, "user"}, {&mapping.assistant_tag, "assistant"},
      {&mapping.observation_tag, "tool"}, {&mapping.function_tag, "function_call"}, {&mapping.system_tag, "system"}};
  for (const auto& [tag, role] : tags)
    if (!tag->empty() && *tag == name) return role;
  static const std::map<std::string, const char*> known{{"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"assistant", "assistant"},
      {"system", "system"}, {"developer", "system"}, {"observation", "tool"}, {"tool", "tool"}, {"function", "tool"}, {"function_call", "function_call"}};
  const auto it = known.find(name);
  return it == known.end() ? "" : it->second;
}

std::string string_of(const Json& turn, const std::string& key) {
  if (!turn.contains(key) || turn[key].is_null()) throw BadRow{fmt::format("\"{}\" is missing", key)};
  if (!turn[key].is_string()) throw BadRow{fmt::format("\"{}\" must be a string", key)};
  return turn[key].get<std::string>();
}

Message read_turn(const Json& turn, const Style& style, const Mapping& mapping, Notes& notes) {
  const std::string name = string_of(turn, style.role_key);
  Message m{role_of(name, mapping), "", 1.0f, ""};
  if (m.role.empty() && style.sharegpt) throw BadRow{fmt::format("unknown speaker \"{}\"; known are human, gpt, system, function_call, observation", name)};
  if (m.role.empty()) throw BadRow{fmt::format("unknown role \"{}\"; known are system, user, assistant, tool", name)};
  const auto weight = weight_of(turn);
  m.weight = weight.value_or(1.0f);
  Json extra = Json::object();
  for (const auto& [key, value] : turn.items())
    if (key == "tool_calls" || key == "reasoning_content" || key == "name" || key == "tool_call_id") extra[key] = value;
  const bool calls = extra.contains("tool_calls") && !extra["tool_calls"].is_null();
  if (style.sharegpt && !calls && !turn.contains(style.content_key)) throw BadRow{fmt::format("\"{}\" is missing", style.content_key)};
  const Json content = turn.contains(style.content_key) ? turn[style.content_key] : Json(nullptr);
  if (content.is_null() && m.role != "assistant") notes.push_back({Action::mended, fmt::format("a {} turn is null; it is read as an empty one", m.role)});
  if (style.sharegpt && !content.is_null() && !content.is_string() && !content.is_array()) throw BadRow{fmt::format("\"{}\" must be a string", style.content_key)};
  m.content = content_of(content);
  if (weight.value_or(0) > 0 && m.role != "assistant" && m.role != "function_call")
    notes.push_back({Action::noted, fmt::format("a {} turn has a loss weight, which is not used: only answers are learnt (train_on_prompt learns everything)", m.role)});
  if (m.role == "function_call") {
    m.role = "assistant";
    m.extra_json = tool_calls(m.content);
    m.content = "";
  } else if (!extra.empty()) {
    m.extra_json = extra.dump();
  }
  return m;
}

// Swift's {"human": question, "assistant": answer}, each a pair of turns.
void read_pair(const Json& turn, const std::string& column, std::vector<Message>& messages, Notes& notes) {
  for (const auto& [key, role] : {std::pair{"human", "user"}, {"assistant", "assistant"}}) {
    if (!turn.contains(key)) throw BadRow{fmt::format("\"{}\" must hold {{human, assistant}}; \"{}\" is missing", column, key)};
    if (!turn[key].is_null() && !turn[key].is_string()) throw BadRow{fmt::format("\"{}\" must be a string", key)};
    if (turn[key].is_null() && std::string(role) == "user") notes.push_back({Action::mended, "a user turn is null; it is read as an empty one"});
    messages.push_back({role, turn[key].is_null() ? "" : turn[key].get<std::string>(), 1, ""});
  }
  if (const auto weight = weight_of(turn)) messages.back().weight = *weight;
}

bool says_something(const Message& m) { return !m.content.empty() || !m.extra_json.empty(); }

void leave_out_beginning(std::vector<Message>& messages, Notes& notes) {
  const auto question = std::find_if(messages.begin(), messages.end(), [](const Message& m) { return m.role == "user"; });
  const auto begun = std::stable_partition(messages.begin(), question, [](const Message& m) { return m.role == "system"; });
  if (begun == question) return;
  messages.erase(begun, question);
  notes.push_back({Action::mended, "turns before the first question are left out"});
}

void leave_out_end(std::vector<Message>& messages, Notes& notes) {
  const auto is_answer = [](const Message& m) { return m.role == "assistant"; };
  // An empty last answer teaches nothing but silence.
  const auto last = std::find_if(messages.rbegin(), messages.rend(), [&](const Message& m) { return is_answer(m) && says_something(m); }).base();
  if (last != messages.end()) {
    notes.push_back({Action::mended, "turns behind the last answer are left out"});
    messages.erase(last, messages.end());
  }
}

// Neighbours of one role become one where nothing would be lost by it.
void join_neighbours(std::vector<Message>& messages, Notes& notes) {
  std::set<std::string> joined;
  std::vector<Message> out;
  for (Message& m : messages) {
    const bool same = !out.empty() && out.back().role == m.role && (m.role == "user" || m.role == "assistant");
    if (!same || !m.extra_json.empty() || !out.back().extra_json.empty() || (m.role == "assistant" && m.weight != out.back().weight)) {
      out.push_back(std::move(m));
      continue;
    }
    joined.insert(m.role);
    out.back().content += (out.back().content.empty() || m.content.empty() ? "" : "\n") + m.content;
  }
  messages = std::move(out);
  for (const std::string& role : joined) notes.push_back({Action::mended, fmt::format("{} turns that follow each other are joined by a line break", role)});
}

void silence_empty_answers(std::vector<Message>& messages, Notes& notes) {
  bool found = false;
  for (Message& m : messages) {
    if (m.role != "assistant" || says_something(m)) continue;
    found |= m.weight != 0;
    m.weight = 0;
  }
  if (found) notes.push_back({Action::mended, "an empty answer is read but not learnt"});
}

}  // namespace

std::vector<Message> read_turns(const Json& turns, const std::string& column, const Mapping& mapping, Notes& notes) {
  if (!turns.is_array()) throw BadRow{fmt::format("\"{}\" must be a list", column)};
  const Style style = style_of(turns, mapping);
  std::vector<Message> messages;
  for (const Json& turn : turns) {
    if (!turn.is_object()) throw BadRow{fmt::format("\"{}\" must hold objects {{{}, {}}}", column, style.role_key, style.content_key)};
    if (turn.contains("human") && !turn.contains(style.role_key)) read_pair(turn, column, messages, notes);
    else messages.push_back(read_turn(turn, style, mapping, notes));
  }
  return messages;
}

void mend(text::Conversation& conversation, Notes& notes) {
  auto& messages = conversation.messages;
  if (messages.empty()) throw BadRow{"the conversation is empty"};
  const auto role = [](const char* name) { return [name](const Message& m) { return m.role == name; }; };
  if (std::none_of(messages.begin(), messages.end(), [](const Message& m) { return m.role == "assistant" && says_something(m); }))
    throw BadRow{"no answer to learn from: no assistant message has content"};
  if (std::none_of(messages.begin(), messages.end(), role("user"))) throw BadRow{"no user message"};
  leave_out_beginning(messages, notes);
  leave_out_end(messages, notes);
  if (std::none_of(messages.begin(), messages.end(), role("assistant"))) throw BadRow{"nothing is left: no answer follows a question"};
  join_neighbours(messages, notes);
  silence_empty_answers(messages, notes);
}

void mend_prompt(std::vector<Message>& messages, Notes& notes) {
  if (std::none_of(messages.begin(), messages.end(), [](const Message& m) { return m.role == "user"; })) throw BadRow{"no user message"};
  leave_out_beginning(messages, notes);
  if (messages.back().role == "assistant") throw BadRow{"the prompt ends with an answer; it must end with a question, which chosen and rejected answer"};
  join_neighbours(messages, notes);
}

}  // namespace attune::data
