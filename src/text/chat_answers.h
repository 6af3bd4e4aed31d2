// Which bytes of a rendered conversation the model must produce: found from the structure of the rendering
// (who wrote which bytes, while which message was being rendered), never by searching for the answers' text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "text/chat.h"
#include "text/jinja_render.h"

namespace attune::text {

struct AnswerContext {
  const jinja::Rendered& rendered;
  const std::vector<jinja::Value>& messages;  // as given to the template
  const std::vector<std::string>& roles;
  const std::string& template_name;
  const std::vector<std::string>& special_tokens;  // texts of tokens that may end a turn
  const std::string& bos;                          // may be empty
  // Renders a part of the conversation with add_generation_prompt=true; throws where the template refuses it.
  std::function<jinja::Rendered(std::vector<jinja::Value>)> with_prompt;
  jinja::Value stand_in;  // a user message to ask for a generation prompt with
};

std::vector<RenderedChat::Answer> generation_answers(const AnswerContext& context);
std::vector<RenderedChat::Answer> structural_answers(const AnswerContext& context);

}  // namespace attune::text
