// Samples and their statistics drawn: colours and bars for a terminal, a page for a browser.
#pragma once

#include <string>

#include "data/token_set.h"
#include "text/tokenizer.h"
#include "util/json.h"

namespace attune::cli {

struct Show {
  const data::TokenSet& set;
  const text::Tokenizer& tokenizer;
  data::RowKind kind;
  bool colour = false;
};

// A sample, or a group with its parts, under a line that names it. What is learnt stands out: by colour, or between [[ ]] without; a
// weight other than 1 is written before it. Of a pair the prompt stands once, and ‖ stands where the answers part.
std::string group_text(const Show& show, int64_t group);
// A self-contained page of these groups.
std::string samples_page(const Show& show, const std::vector<int64_t>& groups);

// Of a pair, in tokens from its beginning: where the answers begin, and where the first differs.
struct PairView {
  size_t prompt, parts_at;
};
PairView pair_view(const data::TokenSet& set, int64_t group);

// Lengths, tokens and labelled share, of all data sets and of each. The mismatched answers of judged rows do not count.
Json length_statistics(const data::TokenSet& set);
// Of pairs and judged answers: lengths of the answers and which side is the longer one; how many are desirable.
Json answer_statistics(const data::TokenSet& set, data::RowKind kind);
// A histogram of lengths with the share of samples up to each.
std::string length_histogram(const data::TokenSet& set);

}  // namespace attune::cli
