// Texts of a template → its Jinja source.
#include <fmt/format.h>

#include <algorithm>

#include "text/chat_templates.h"

namespace attune::text {
namespace {

std::string literal(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\\' || c == '\'') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + "'";
}

// "USER: {}{end}" → "'USER: ' ~ content ~ turn_end"
std::string expression(std::string_view text, std::string_view content) {
  const std::pair<std::string_view, std::string_view> placeholders[] = {
      {"{}", content}, {"{bos}", "begin"}, {"{end}", "turn_end"}};
  std::string out;
  auto add = [&](std::string_view part) { out.append(out.empty() ? "" : " ~ ").append(part); };
  while (!text.empty()) {
    size_t at = std::string_view::npos;
    std::pair<std::string_view, std::string_view> next;
    for (const auto& placeholder : placeholders)
      if (const size_t found = text.find(placeholder.first); found < at) at = found, next = placeholder;
    if (at > 0) add(literal(text.substr(0, at)));
    if (at == std::string_view::npos) break;
    add(next.second);
    text.remove_prefix(at + next.first.size());
  }
  return out.empty() ? "''" : out;
}

// The parts of a text before and behind its content.
std::pair<std::string_view, std::string_view> around(std::string_view text) {
  const size_t at = text.find("{}");
  return {text.substr(0, at), text.substr(at + 2)};
}

// Texts in <…> or […] that should be single tokens.
void collect_tokens(std::string_view text, std::vector<std::string>& out) {
  static constexpr std::string_view openings[] = {
      "<|", "<\uff5c", "<reserved_", "<start_of_turn>", "<end_of_turn>", "<eo"};
  for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
    const std::string_view rest = text.substr(at);
    if (std::none_of(std::begin(openings), std::end(openings), [&](auto o) { return rest.starts_with(o); }))
      continue;
    const std::string token(rest.substr(0, rest.find('>') + 1));
    if (!token.empty() && std::find(out.begin(), out.end(), token) == out.end()) out.push_back(token);
  }
}

std::string statement(std::string_view indent, const std::string& expression) {
  return expression == "''" ? "" : fmt::format("{}{{{{- {} }}}}\n", indent, expression);
}

std::string beginning(const TemplateTexts& t) {
  std::string out =
      std::string(
          "{%- set has_system = messages and messages[0].role == 'system' %}\n"
          "{%- set system_text = messages[0].content") +
      (t.trims ? " | trim" : "") + " if has_system else " + literal(t.default_system) +
      " %}\n"
      "{%- set tools_part = tools_text(tools) if tools else '' %}\n"
      // Some tool texts begin with the empty line that parts them from the system's text.
      "{%- set system_text = system_text ~ tools_part if system_text else tools_part.lstrip('\\n') %}\n";
  const std::string lead =
      fmt::format("({} if has_system or system_text else '')", expression(t.system, "system_text"));
  if (t.begins_with_bos) out += "{{- begin }}\n";
  return out + (t.system_in_user ? fmt::format("{{%- set ns = namespace(lead={}) %}}\n", lead)
                                 : statement("", lead));
}

std::string answer_branch(const TemplateTexts& t, const std::string& header) {
  std::string out =
      "    {%- elif message.role == 'assistant' %}\n"
      "        {%- set content = message.content" +
      std::string(t.trims ? " | trim" : "") + " or '' %}\n" + statement("        ", header);
  if (t.thinks)
    out +=
        "        {%- if message.reasoning_content %}\n"
        "            {{- '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}\n"
        "        {%- elif '<think>' not in content and '</think>' not in content %}\n"
        "            {{- '<think>\\n\\n</think>\\n\\n' }}\n"
        "        {%- endif %}\n";
  out +=
      "        {{- content }}\n"
      "        {%- if message.tool_calls %}\n"
      "            {{- ('\\n' if content else '') ~ calls_text(message.tool_calls) }}\n"
      "        {%- endif %}\n";
  out += statement("        ", expression(fmt::format("{}{{end}}{}", t.before_end, t.behind), ""));
  if (!t.between.empty())
    out += "        {%- if not loop.last %}\n" + statement("            ", expression(t.between, "")) +
           "        {%- endif %}\n";
  return out;
}

std::string result_branch(const TemplateTexts& t, std::string_view user, std::string_view tool_format) {
  const auto [head, tail] = around(t.result.empty() ? user : t.result);
  const bool named = t.result.empty() && tool_format == "default";
  return "    {%- elif message.role == 'tool' %}\n"
         "        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}\n" +
         statement("            ", expression(fmt::format("{}{}", head, named ? "Observation: " : ""), "")) +
         "        {%- else %}\n" + statement("            ", expression(t.between_results, "")) +
         "        {%- endif %}\n"
         "        {{- message.content" +
         (t.trims ? " | trim" : "") +
         " }}\n"
         "        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}\n" +
         statement("            ", expression(tail, "")) + "        {%- endif %}\n";
}

std::string source_of(const TemplateTexts& t, std::string_view tool_format) {
  const size_t mark = t.user.find("{answer}");
  const std::string_view user = t.user.substr(0, mark);
  const std::string header = expression(
      mark == std::string_view::npos ? "" : t.user.substr(mark + std::string_view("{answer}").size()), "");
  std::string out = tool_macros(tool_format) + beginning(t) +
                    "{%- for message in messages %}\n    {%- if message.role == 'user' %}\n";
  const std::string content = t.trims ? "message.content | trim" : "message.content";
  out += statement("        ", expression(user, t.system_in_user ? "ns.lead ~ " + content : content));
  if (t.system_in_user) out += "        {%- set ns.lead = '' %}\n";
  out += answer_branch(t, header) + result_branch(t, user, tool_format);
  if (t.system_anywhere)
    out += "    {%- elif message.role == 'system' and not loop.first %}\n" +
           statement("        ", expression(t.system, content));
  out += fmt::format(
      "    {{%- elif not (message.role == 'system' and loop.first) %}}\n"
      "        {{{{- raise_exception('the built-in template {} has no text for a message of role \"' ~ "
      "message.role ~ "
      "'\" here') }}}}\n    {{%- endif %}}\n{{%- endfor %}}\n",
      t.name);
  if (header != "''")
    out += "{%- if add_generation_prompt %}\n" + statement("    ", header) + "{%- endif %}\n";
  return out;
}

bool is_called(const TemplateTexts& texts, std::string_view name) {
  if (texts.name == name) return true;
  std::string_view rest = texts.aliases;
  while (!rest.empty()) {
    const size_t space = std::min(rest.find(' '), rest.size());
    if (rest.substr(0, space) == name) return true;
    rest.remove_prefix(std::min(space + 1, rest.size()));
  }
  return false;
}

}  // namespace

const BuiltinTemplate* find_builtin(const std::string& name, const std::string& tool_format,
                                    BuiltinTemplate& storage) {
  for (const TemplateTexts& texts : template_texts()) {
    if (!is_called(texts, name)) continue;
    storage.name = texts.name;
    storage.turn_end = texts.turn_end;
    storage.source =
        source_of(texts, tool_format.empty() ? texts.tool_format : std::string_view(tool_format));
    storage.control_tokens.clear();
    for (std::string_view text : {texts.user, texts.system, texts.result, texts.turn_end})
      collect_tokens(text, storage.control_tokens);
    return &storage;
  }
  return nullptr;
}

}  // namespace attune::text
