// Chat templates: parse, render a conversation under small limits, find the answers.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "text/chat.h"
#include "text/chat_fixture_tokenizer.h"
#include "text/jinja_render.h"
#include "util/json.h"

namespace attune::fuzz {
namespace {

text::Conversation sample() {
  text::Conversation chat;
  chat.messages = {
      {"system", "s", 1.0f, ""},
      {"user", "q <|im_end|>", 1.0f, ""},
      {"assistant", "", 1.0f, R"({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]})"},
      {"tool", "12", 1.0f, ""},
      {"assistant", "a\u00e9", 1.0f, R"({"reasoning_content": "why"})"}};
  chat.tools_json = R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])";
  return chat;
}

}  // namespace

int chat_template(const uint8_t* data, size_t size) {
  static const text::chat_test::SpecialsOnly tokenizer(text::chat_test::all_specials());
  static const text::Conversation chat = sample();
  const std::string source(reinterpret_cast<const char*>(data), size);
  return guarded([&] {
    text::jinja::Limits limits;
    limits.steps = 20'000;
    limits.bytes = 1 << 20;
    {  // hostile ones end here, cheaply
      const text::jinja::Origin origin{text::jinja::Source::context, false, -1};
      text::jinja::Variables variables;
      variables.emplace_back("messages", text::jinja::Value::from_json(
                                             Json::parse(R"([{"role": "user", "content": "x"}])"), origin));
      variables.emplace_back("tools", text::jinja::Value::none());
      text::jinja::Template(source, "fuzz").render(variables, limits);
    }
    const auto rendered = text::ChatTemplate::from_jinja(source, "fuzz", tokenizer)->render(chat);
    size_t at = 0;
    for (const auto& answer : rendered.answers) {
      if (answer.range.begin < at || answer.range.end < answer.range.begin) std::abort();
      at = answer.range.end;
    }
    if (at > rendered.text.size()) std::abort();
    at = 0;
    for (const auto& range : rendered.user_text) {
      if (range.begin < at || range.end < range.begin) std::abort();
      at = range.end;
    }
    if (at > rendered.text.size()) std::abort();
  });
}

}  // namespace attune::fuzz
