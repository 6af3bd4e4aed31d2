// The built-in templates: texts as data, turned into one Jinja source each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace attune::text {

// A template is its texts around the messages. Placeholders: {} the message's content, {bos} the BOS where
// the tokenizer wants one, {end} the text that ends a turn.
struct TemplateTexts {
  std::string_view name;
  std::string_view aliases;          // other names, separated by spaces
  std::string_view turn_end;         // what closes an answer and stops generation; empty: EOS
  std::string_view user;             // a user's turn; {answer} and what follows it begins an answer
  std::string_view system;           // around a system message
  std::string_view default_system;   // the message where there is none
  std::string_view behind;           // written behind every closed turn
  std::string_view between;          // written between a closed turn and the next message
  std::string_view result;           // a tool's result; empty: as a user's turn
  std::string_view between_results;  // between results in a row
  std::string_view tool_format;      // how tools are described and called
  std::string_view source;           // where the texts come from; for docs/templates.md
  std::string_view before_end = {};  // between an answer and what closes it
  bool system_in_user = false;       // the system's text stands inside the first user turn
  bool system_anywhere = false;      // later system messages are written like the first
  bool trims = false;                // white space around contents is dropped
  bool thinks = false;               // an answer without thoughts gets an empty thought
  bool begins_with_bos = true;       // false: {bos} stands in `user`
};

const std::vector<TemplateTexts>& template_texts();

// How tools are described to the model, called by it, and how results come back.
const std::vector<std::string>& tool_formats();
// Jinja macros tools_text(tools) and calls_text(calls) of a format; refuses an unknown one.
std::string tool_macros(std::string_view format);

struct BuiltinTemplate {
  std::string name;
  std::string source;                       // without the two `set` lines that chat.cpp puts before it
  std::vector<std::string> control_tokens;  // texts that should be single tokens
  std::string turn_end;                     // the one of them that ends a turn; empty: eos
};

// `tool_format` empty: the template's own. Null where there is no such name.
const BuiltinTemplate* find_builtin(const std::string& name, const std::string& tool_format,
                                    BuiltinTemplate& storage);

}  // namespace attune::text
