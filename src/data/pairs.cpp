#include "data/pairs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/columns.h"
#include "data/implicit_prompt.h"
#include "data/turns.h"

namespace attune::data {
namespace {

using text::Message;
using Action = DataReport::Action;
using Messages = std::vector<Message>;

struct Sides {
  Messages prompt, chosen, rejected;
};

bool same(const Message& a, const Message& b) { return a.role == b.role && a.content == b.content && a.extra_json == b.extra_json; }

// A side that holds the conversation from its beginning, not only the answer.
bool is_whole(const Messages& side) { return side[0].role != "assistant"; }

// The messages that both sides begin with are the prompt.
void split_prompt(Sides& s) {
  const auto part = std::mismatch(s.chosen.begin(), s.chosen.end(), s.rejected.begin(), s.rejected.end(), same);
  const bool chosen_ends = part.first == s.chosen.end(), rejected_ends = part.second == s.rejected.end();
  if (chosen_ends && rejected_ends) throw BadRow{"chosen and rejected are the same"};
  if (chosen_ends || rejected_ends) throw BadRow{"one side is the beginning of the other: they do not answer the same question"};
  if (part.first->role != "assistant" || part.second->role != "assistant")
    throw BadRow{"the two sides part at a question, not at an answer: a pair has one prompt"};
  s.prompt.assign(s.chosen.begin(), part.first);
  s.chosen.erase(s.chosen.begin(), part.first);
  s.rejected.erase(s.rejected.begin(), part.second);
}

// Where the sides repeat the prompt that a column of its own gives.
void leave_out_prompt(const Messages& prompt, Messages& side, const char* name) {
  if (!is_whole(side)) return;
  const bool begins = side.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), side.begin(), same);
  if (!begins) throw BadRow{fmt::format("\"{}\" begins with a {} turn that is not in the prompt: it must hold the answer, or prompt and answer", name, side[0].role)};
  side.erase(side.begin(), side.begin() + static_cast<ptrdiff_t>(prompt.size()));
}

void read_two(const Json& row, const std::string& column, Sides& s) {
  s.chosen = {{"assistant", row[column][0].get<std::string>(), 1, ""}};
  s.rejected = {{"assistant", row[column][1].get<std::string>(), 1, ""}};
}

// The prompt of TRL's lists is inside of them; a prompt column beside them repeats its question.
void split_lists(const Json& row, Sides& s) {
  split_prompt(s);
  const bool repeats = !has(row, "prompt") || std::any_of(s.prompt.begin(), s.prompt.end(), [&](const Message& m) { return row["prompt"] == m.content; });
  if (!repeats) throw BadRow{"\"prompt\" is another one than the messages of \"chosen\" and \"rejected\" begin with"};
  add_system(text_field(row, first_of(row, {"system", "system_prompt"}), false), s.prompt);
}

// TRL's implicit prompt as plain texts: turns where they are marked, otherwise what both texts begin with.
void split_texts(const Json& row, Sides& s, Notes& notes) {
  const std::string chosen = s.chosen[0].content, rejected = s.rejected[0].content;
  s.chosen = marked_turns(chosen);
  s.rejected = marked_turns(rejected);
  if (!s.chosen.empty() && !s.rejected.empty()) {
    split_prompt(s);
  } else {
    if (chosen == rejected) throw BadRow{"chosen and rejected are the same"};
    const size_t border = common_prompt(chosen, rejected);
    if (border == 0)
      throw BadRow{"there is no prompt: expected \"prompt\", \"instruction\", \"conversations\" or \"messages\", or \"chosen\" and \"rejected\" that begin with "
                   "the same question"};
    const auto answer = [&](const std::string& text) {
      const size_t begin = text.find_first_not_of(" \t\r\n", border);
      return Messages{{"assistant", begin == std::string::npos ? "" : text.substr(begin), 1, ""}};
    };
    s.prompt = {{"user", chosen.substr(0, border), 1, ""}};
    s.chosen = answer(chosen);
    s.rejected = answer(rejected);
    notes.push_back({Action::noted, "the prompt is what chosen and rejected begin with, up to a whole sentence: see that it is the question"});
  }
  add_system(text_field(row, first_of(row, {"system", "system_prompt"}), false), s.prompt);
}

Sides read_chosen(const Json& row, Notes& notes) {
  Sides s;
  const std::string conversation = conversation_column(row), two = list_of_two(row);
  if (two.empty()) {
    s.chosen = read_answer(row, "chosen", {}, notes);
    s.rejected = read_answer(row, "rejected", {}, notes);
  } else {
    read_two(row, two, s);
  }
  if (!conversation.empty()) {
    s.prompt = read_conversation(row, conversation, notes);
  } else if (is_messages(row, "prompt")) {
    s.prompt = read_conversation(row, "prompt", notes);
  } else if (is_whole(s.chosen) && is_whole(s.rejected)) {
    split_lists(row, s);
  } else {
    const bool texts = two.empty() && row["chosen"].is_string() && row["rejected"].is_string();
    if (present(row, kQuestions).empty() && !has(row, "input")) {
      if (!texts)
        throw BadRow{"there is no prompt: expected \"prompt\", \"instruction\", \"conversations\" or \"messages\", or the messages from the first question on in \"chosen\" and \"rejected\""};
      split_texts(row, s, notes);
      return s;
    }
    s.prompt = read_question(row, detect_exchange(row, {two.empty() ? "chosen" : two}));
  }
  return s;
}

// ms-swift: what would be learnt in sft, and beside it what is to be avoided.
Sides read_beside(const Json& row, const std::string& other, Notes& notes) {
  Sides s;
  s.rejected = read_answer(row, other, {}, notes);
  if (const std::string conversation = conversation_column(row); !conversation.empty()) {
    s.chosen = read_conversation(row, conversation, notes);
    if (is_whole(s.rejected)) {
      // The column's system message belongs to both.
      add_system(s.chosen.empty() || s.chosen[0].role != "system" ? "" : s.chosen[0].content, s.rejected);
      split_prompt(s);
      return s;
    }
    if (s.chosen.empty() || s.chosen.back().role != "assistant") throw BadRow{fmt::format("\"{}\" must end with the chosen answer", conversation)};
    s.prompt.assign(s.chosen.begin(), s.chosen.end() - 1);
    s.chosen.erase(s.chosen.begin(), s.chosen.end() - 1);
    return s;
  }
  const Exchange names = detect_exchange(row, kAnswers);
  s.prompt = read_question(row, names);
  s.chosen = {{"assistant", text_field(row, names.answer, true), 1, ""}};
  return s;
}

Sides detect_sides(const Json& row, Notes& notes) {
  const std::string other = first_of(row, {"rejected_response", "rejected_messages"});
  if (!other.empty() && !row.contains("chosen") && !row.contains("rejected")) return read_beside(row, other, notes);
  if (!row.contains("chosen") && !row.contains("rejected") && list_of_two(row).empty())
    throw BadRow{fmt::format("unknown shape: expected {}; the row has {}. Say in dataset_info.json which columns are meant", description_of(RowKind::pair), keys_of(row))};
  return read_chosen(row, notes);
}

Sides read_mapped_sides(const Json& row, const Mapping& mapping, Notes& notes) {
  const bool turns = mapping.formatting == Mapping::Formatting::sharegpt || mapping.formatting == Mapping::Formatting::openai;
  Sides s;
  s.prompt = turns ? read_mapped_conversation(row, mapping, notes) : read_mapped_question(row, mapping);
  const bool named = !mapping.chosen.empty() || !mapping.rejected.empty();
  if (const std::string two = list_of_two(row); !named && !two.empty() && two == mapping.response) {
    read_two(row, two, s);
    return s;
  }
  if (!named && !row.contains("chosen"))
    throw BadRow{fmt::format("{} names no columns \"chosen\" and \"rejected\", which preference pairs have; the row has {}", mapping.where, keys_of(row))};
  const std::string chosen = named ? mapping.chosen : "chosen", rejected = named ? mapping.rejected : "rejected";
  check_mapped(row, chosen, "chosen", mapping);
  check_mapped(row, rejected, "rejected", mapping);
  s.chosen = read_answer(row, chosen, mapping, notes);
  s.rejected = read_answer(row, rejected, mapping, notes);
  return s;
}

// A side may be several messages (calls of tools, what they gave, the answer).
void check_side(const Messages& side, const char* name) {
  if (side[0].role != "assistant") throw BadRow{fmt::format("\"{}\" must begin with an answer, not with a {} turn", name, side[0].role)};
  if (side.back().role != "assistant") throw BadRow{fmt::format("\"{}\" must end with an answer, not with a {} turn", name, side.back().role)};
}

std::optional<float> margin_of(const Json& row) {
  if (!has(row, "margin")) return std::nullopt;
  const Json& margin = row["margin"];
  double value = std::nan("");
  if (margin.is_number()) value = margin.get<double>();
  if (margin.is_string()) {
    char* end = nullptr;
    const std::string& text = margin.get_ref<const std::string&>();
    if (text.empty()) return std::nullopt;  // of a table
    value = std::strtod(text.c_str(), &end);
    if (*end != 0) value = std::nan("");
  }
  if (!(std::abs(value) <= 1e6)) throw BadRow{"\"margin\" must be a number (rename the column if it is none)"};
  return static_cast<float>(value);
}

}  // namespace

std::string list_of_two(const Json& row) {
  for (const std::string& column : kAnswers)
    if (has(row, column) && row[column].is_array() && row[column].size() == 2 && row[column][0].is_string() && row[column][1].is_string()) return column;
  return "";
}

void read_pair(const Json& row, const Mapping& mapping, Record& record, Notes& notes) {
  const bool is_mapped = mapping.explicit_columns || mapping.formatting != Mapping::Formatting::detect;
  Sides s = is_mapped ? read_mapped_sides(row, mapping, notes) : detect_sides(row, notes);
  leave_out_prompt(s.prompt, s.chosen, "chosen");
  leave_out_prompt(s.prompt, s.rejected, "rejected");
  mend_prompt(s.prompt, notes);
  check_side(s.chosen, "chosen");
  check_side(s.rejected, "rejected");
  if (s.chosen.back().content.empty() && s.chosen.back().extra_json.empty()) throw BadRow{"the chosen answer is empty"};
  if (s.rejected.back().content.empty() && s.rejected.back().extra_json.empty())
    notes.push_back({Action::noted, "the rejected answer is empty: only the token that ends it tells the sides apart"});
  record.prompt_messages = s.prompt.size();
  record.conversation.messages = std::move(s.prompt);
  record.conversation.messages.insert(record.conversation.messages.end(), s.chosen.begin(), s.chosen.end());
  record.conversation.tools_json = tools_field(row, is_mapped ? mapping.tools : "tools");
  record.rejected = std::move(s.rejected);
  record.margin = margin_of(row);
}

}  // namespace attune::data
