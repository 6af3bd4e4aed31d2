#include "data/record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "util/json.h"

namespace attune::data {

const char* description_of(RowKind kind) {
  constexpr const char* kWhat[] = {"plain text (\"text\")", "questions with answers (\"instruction\"/\"output\", \"conversations\" or \"messages\")",
                                   "preference pairs (a prompt with \"chosen\" and \"rejected\")",
                                   "judged answers for KTO (an answer with \"label\" or \"kto_tag\", true or false)"};
  return kWhat[static_cast<size_t>(kind)];
}

const char* stages_of(RowKind kind) {
  constexpr const char* kStages[] = {"pt", "sft", "rm or dpo", "kto"};
  return kStages[static_cast<size_t>(kind)];
}

text::Conversation Record::rejected_conversation() const {
  text::Conversation other;
  other.tools_json = conversation.tools_json;
  other.messages.assign(conversation.messages.begin(), conversation.messages.begin() + static_cast<ptrdiff_t>(prompt_messages));
  other.messages.insert(other.messages.end(), rejected.begin(), rejected.end());
  return other;
}

const char* DataReport::name_of(Action action) {
  constexpr const char* kNames[] = {"dropped", "cut", "mended", "noted"};
  return kNames[static_cast<size_t>(action)];
}

int64_t DataReport::count(Action action) const {
  int64_t n = 0;
  for (const Entry& e : entries_) n += e.action == action;
  return n;
}

int64_t DataReport::rows(Action action) const {
  std::set<std::string_view> places;
  for (const Entry& e : entries_)
    if (e.action == action) places.insert(e.where);
  return static_cast<int64_t>(places.size());
}

std::vector<std::string> DataReport::summary() const {
  std::map<std::pair<int, std::string>, std::vector<const Entry*>> groups;
  for (const Entry& e : entries_) groups[{static_cast<int>(e.action), e.reason}].push_back(&e);
  std::vector<std::string> lines;
  for (const auto& [key, entries] : groups) {
    std::string places;
    for (size_t i = 0; i < std::min<size_t>(3, entries.size()); ++i) places += (i ? ", " : "") + entries[i]->where;
    if (entries.size() > 3) places += ", …";
    lines.push_back(fmt::format("{} {} row{}: {} ({})", name_of(entries[0]->action), entries.size(),
                                entries.size() == 1 ? "" : "s", key.second, places));
  }
  return lines;
}

std::string DataReport::jsonl() const {
  std::string out;
  for (const Entry& e : entries_) {
    Json line;
    line["action"] = name_of(e.action);
    line["reason"] = e.reason;
    line["where"] = e.where;
    out += dump_json(line) + "\n";
  }
  return out;
}

}  // namespace attune::data
