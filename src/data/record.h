// The one record type that every reader produces and everything after consumes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/row_kind.h"
#include "text/chat.h"

namespace attune::data {

// Where a row came from: messages name it as file:line.
struct Source {
  int32_t file = 0;  // index into Records::files
  int64_t line = 0;  // 1-based
};

struct Record {
  std::string text;                 // plain text (pre-training), or
  text::Conversation conversation;  // a conversation (empty where `text` is used)
  Source source;
  float weight = 1.0f;              // of the whole row: multiplies the loss weight of each of its tokens
  // Of pairs and judged answers: how many messages of the conversation are the prompt. Behind them stands the answer, of a pair
  // the chosen one; `rejected` stands in the same place on the other side.
  size_t prompt_messages = 0;
  std::vector<text::Message> rejected;
  std::optional<float> margin;      // of a pair: by how much its reward is to differ (reward models)
  std::optional<bool> desirable;    // of a judged answer
  bool is_conversation() const { return !conversation.messages.empty(); }
  bool is_pair() const { return !rejected.empty(); }
  bool is_judged() const { return desirable.has_value(); }
  // The conversation of a pair with the other answer.
  text::Conversation rejected_conversation() const;
};

// What happened to rows that are not simply used as they are. Nothing is dropped or cut without a line here.
class DataReport {
 public:
  // dropped: the row is not used. cut: it is used in part, for its length. mended: it is used, with turns changed or left
  // out. noted: it is used as it is, but somebody should look at it.
  enum class Action { dropped, cut, mended, noted };
  static const char* name_of(Action action);
  struct Entry {
    Action action;
    std::string reason;
    std::string where;  // file:line
  };
  void add(Action action, const std::string& reason, const std::string& where) { entries_.push_back({action, reason, where}); }
  void add(const DataReport& other) { entries_.insert(entries_.end(), other.entries_.begin(), other.entries_.end()); }
  const std::vector<Entry>& entries() const { return entries_; }
  int64_t count(Action action) const;
  // Places of that action: a row that is cut in two ways is one.
  int64_t rows(Action action) const;
  // "dropped 3 rows: no answer (data.jsonl:4, data.jsonl:9, …)", one line a reason.
  std::vector<std::string> summary() const;
  // One JSON object a line: {"action":…,"reason":…,"where":…}
  std::string jsonl() const;

 private:
  std::vector<Entry> entries_;
};

struct Records {
  std::vector<std::string> files;
  std::vector<std::string> data_sets;  // as the configuration names them
  std::vector<int32_t> data_set_of;    // of each file, index into `data_sets`
  std::vector<Record> rows;
  int64_t rows_read = 0;
  int32_t data_set(const Source& s) const { return data_set_of.empty() ? 0 : data_set_of[static_cast<size_t>(s.file)]; }
  std::string where(const Source& s) const { return files[static_cast<size_t>(s.file)] + ":" + std::to_string(s.line); }
};

}  // namespace attune::data
