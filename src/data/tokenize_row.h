// One record → its token sequences: what SetTokenizer does for many rows at once.
#pragma once

#include <string>
#include <vector>

#include "data/token_set.h"

namespace attune::data {

struct RowResult {
  // Of a text its pieces, of a pair the prompt with the chosen and with the rejected answer, else one.
  std::vector<TokenizedRow> parts;
  std::vector<std::string> reasons;  // why it was cut or dropped
  bool dropped = false;
  static RowResult drop(std::string reason) { return {{}, {std::move(reason)}, true}; }
};

// `chat` may be null where the record is no conversation.
RowResult tokenize_row(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat, const TokenizeOptions& options);

// A pair, or a judged answer. Each part ends with the token that closes its answer; `answers` are those behind the prompt, and
// only they have weight. What is too long loses first turns of the prompt, then the beginning of its question, then the
// end of the answers; the prompt is the same on both sides.
RowResult tokenize_answers(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate& chat, const TokenizeOptions& options);

// The conversation without its first `exchanges` questions and what follows each; system messages at its head stay.
text::Conversation without_first(const text::Conversation& conversation, size_t exchanges);
size_t count_questions(const text::Conversation& conversation);

// Cuts a sequence whose last token closes its answer to `limit` tokens; the closing token is kept, so that the model does not
// learn to break off.
void cut_answer(TokenizedRow& row, size_t limit);

}  // namespace attune::data
