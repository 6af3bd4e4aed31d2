// The turns of a conversation: from JSON, and into an order that a chat template can say.
#pragma once

#include "data/mapping.h"
#include "data/shapes.h"
#include "text/chat.h"
#include "util/json.h"

namespace attune::data {

// The messages of a list of turns: {from, value}, {role, content} or {human, assistant}, by the mapping's tags where it has
// some. `column` names the list in messages. Throws BadRow.
std::vector<text::Message> read_turns(const Json& turns, const std::string& column, const Mapping& mapping, Notes& notes);

// Makes system? (user (assistant tool*)+)+ of it, and notes what it changed. Throws BadRow when nothing is left.
void mend(text::Conversation& conversation, Notes& notes);
// The same for a prompt, which ends with a question or with what a tool gave.
void mend_prompt(std::vector<text::Message>& messages, Notes& notes);

}  // namespace attune::data
