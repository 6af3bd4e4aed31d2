// The built-in templates, as Jinja sources.
#pragma once

#include <string>
#include <vector>

namespace attune::text {

struct BuiltinTemplate {
  std::string name;
  std::string source;                       // without the two `set` lines that chat.cpp puts before it
  std::vector<std::string> control_tokens;  // texts that should be single tokens
  std::string turn_end;                     // the one of them that ends a turn; empty: eos
};

const std::vector<BuiltinTemplate>& builtin_templates();

}  // namespace attune::text
