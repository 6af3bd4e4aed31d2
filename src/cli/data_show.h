// Samples and their statistics drawn: colours and bars for a terminal, a page for a browser.
#pragma once

#include <string>

#include "data/token_set.h"
#include "text/tokenizer.h"
#include "util/json.h"

namespace attune::cli {

// What is learnt stands out: by colour, or between [[ ]] without; a weight other than 1 is written before it.
std::string sample_text(const data::TokenSet& set, int64_t sample, const text::Tokenizer& tokenizer, bool colour);
// A self-contained page of these samples.
std::string samples_page(const data::TokenSet& set, const std::vector<int64_t>& samples, const text::Tokenizer& tokenizer);

// Lengths, tokens and labelled share, of all data sets and of each.
Json length_statistics(const data::TokenSet& set);
// A histogram of lengths with the share of samples up to each.
std::string length_histogram(const data::TokenSet& set);

}  // namespace attune::cli
