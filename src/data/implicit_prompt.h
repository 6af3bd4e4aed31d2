// Pairs of plain texts whose common beginning is the prompt (TRL's implicit prompt).
#pragma once

#include <string_view>
#include <vector>

#include "text/chat.h"

namespace attune::data {

// The turns of a text as Anthropic's hh-rlhf writes them, "\n\nHuman: …\n\nAssistant: …"; none where it does not begin so.
std::vector<text::Message> marked_turns(std::string_view text);

// Bytes of the prompt that both texts begin with: what is common, back to the end of its last whole sentence or line, or else to
// its last space. 0 where there is none.
size_t common_prompt(std::string_view a, std::string_view b);

}  // namespace attune::data
