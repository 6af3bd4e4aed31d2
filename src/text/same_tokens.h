// Whether two tokenizers give the same numbers to the same tokens.
#pragma once

#include "text/tokenizer.h"

namespace attune::text {

// Models of either can then read each other's ids. What they do with a text on the way there is not compared.
bool same_tokens(const Tokenizer& a, const Tokenizer& b);

}  // namespace attune::text
