#include "text/same_tokens.h"

#include "util/error.h"

namespace attune::text {

bool same_tokens(const Tokenizer& a, const Tokenizer& b) {
  const auto token = [](const Tokenizer& tokenizer, TokenId id) -> std::optional<std::string> {
    try {
      return tokenizer.id_to_token(id);
    } catch (const Error&) {  // an id that nobody has
      return std::nullopt;
    }
  };
  if (a.vocab_size() != b.vocab_size()) return false;
  for (int64_t id = 0; id < a.vocab_size(); ++id)
    if (token(a, static_cast<TokenId>(id)) != token(b, static_cast<TokenId>(id))) return false;
  return true;
}

}  // namespace attune::text
