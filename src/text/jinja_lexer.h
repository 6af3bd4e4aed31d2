// Template source → tokens, with Hugging Face's whitespace rules (trim_blocks, lstrip_blocks, one final
// newline dropped).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace attune::text::jinja {

enum class TokenKind {
  data,
  block_begin,
  block_end,
  print_begin,
  print_end,
  name,
  string,
  integer,
  real,
  op,
  end
};

struct Token {
  TokenKind kind = TokenKind::end;
  int line = 1;
  std::string text;  // the operator, the name, the number's digits, or the unescaped string
};

std::vector<Token> tokenize(std::string_view source, const std::string& template_name);

// Throws attune::Error "chat template NAME, line N: …".
[[noreturn]] void template_error(const std::string& template_name, int line, const std::string& what);

}  // namespace attune::text::jinja
