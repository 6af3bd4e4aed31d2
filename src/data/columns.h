// The columns of a row: what is in them, and which of them are question, answer and conversation where no mapping says it.
#pragma once

#include <string>
#include <vector>

#include "data/file_rows.h"
#include "data/mapping.h"
#include "data/shapes.h"

namespace attune::data {

using Names = std::vector<std::string>;

// `instruction` may have an `input` behind it; the others are questions on their own.
extern const Names kQuestions, kAnswers, kConversations;

// There, and not null.
bool has(const Json& row, const std::string& key);
// Those of `keys` that the row has; the first of them, or nothing.
Names present(const Json& row, const Names& keys);
std::string first_of(const Json& row, const Names& keys);
// "a", "b": for messages.
std::string keys_of(const Json& row);
// A list of turns.
bool is_messages(const Json& row, const std::string& key);

// Throw BadRow where the column is missing (and `required`) or of another type.
std::string text_field(const Json& row, const std::string& key, bool required);
std::string tools_field(const Json& row, const std::string& key);
// Where the mapping names a column, it must be in the row; `meaning`: which of the mapping's columns.
void check_mapped(const Json& row, const std::string& column, const char* meaning, const Mapping& mapping);

// One system message, not two: a system turn wins over the column.
void add_system(const std::string& system, std::vector<text::Message>& messages);

// A question and its answer, in columns of these names; empty: none.
struct Exchange {
  std::string question, input, answer, system, history;
};
// The columns of the row; throws BadRow where several could be meant, with what to write into dataset_info.json. `answers`:
// the columns that may hold the answer.
Exchange detect_exchange(const Json& row, const Names& answers);
// The messages up to and including the question.
std::vector<text::Message> read_question(const Json& row, const Exchange& names);
// The same by a mapping's columns.
std::vector<text::Message> read_mapped_question(const Json& row, const Mapping& mapping);
// instruction and input.
std::string joined(const std::string& question, const std::string& input);

// The only column that holds a conversation, or nothing; throws BadRow where there are several.
std::string conversation_column(const Json& row);
// The messages of that column, with the system message and nothing mended.
std::vector<text::Message> read_conversation(const Json& row, const std::string& column, Notes& notes);
// Likewise by a mapping with turns.
std::vector<text::Message> read_mapped_conversation(const Json& row, const Mapping& mapping, Notes& notes);

// An answer: a text, one turn, or a list of turns.
std::vector<text::Message> read_answer(const Json& row, const std::string& column, const Mapping& mapping, Notes& notes);

}  // namespace attune::data
