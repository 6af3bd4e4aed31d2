// Conversations → one text whose every byte knows where it came from, and which bytes are trained on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "util/json.h"

namespace attune::text {

struct Message {
  std::string role;     // "system", "user", "assistant", "tool"
  std::string content;  // may be empty
  // Loss weight of an assistant turn: 1 trains on it, 0 does not; other values scale its tokens.
  float weight = 1.0f;
  // Further fields that templates read (tool_calls, reasoning_content …) as a JSON object's text; may be
  // empty. A field "content" in it replaces `content` (null, or a list of parts).
  std::string extra_json;
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools_json;  // a JSON list of tool descriptions, or empty
};

// The rendered conversation. Ranges are sorted and disjoint.
struct RenderedChat {
  std::string text;
  std::vector<ByteRange> user_text;  // bytes that came out of messages or tools: never control tokens
  struct Answer {
    ByteRange range;  // the assistant's bytes, from behind the header up to and including the token that ends
                      // the turn
    size_t message = 0;  // index into Conversation::messages
    bool closed =
        true;  // false: the template puts nothing behind this turn that would tell the model to stop
  };
  std::vector<Answer> answers;
  // Whether the text itself begins with the tokenizer's BOS or is complete without: the template owns special
  // tokens.
  bool add_special_tokens = false;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;

  // `name`: "" uses the model's own Jinja template (and refuses where it has none), or one of the built-in
  // templates (docs/templates.md). The refusal of an unknown name lists the known ones, the nearest first.
  // `tool_format`: how a built-in template writes tools (default, qwen, glm4, llama3, mistral); "" is its own
  // way.
  static std::unique_ptr<ChatTemplate> create(const std::string& name, const Tokenizer& tokenizer,
                                              const std::string& tool_format = "");
  // A template from Jinja source text; `source_name` is used in messages.
  static std::unique_ptr<ChatTemplate> from_jinja(const std::string& source, const std::string& source_name,
                                                  const Tokenizer& tokenizer);
  static const std::vector<std::string>& builtin_names();

  // Throws attune::Error when the template refuses the conversation, when a role is unknown, or when the
  // answers cannot be told apart from the rest by structure (with add_generation_prompt they are left out
  // then). Where the template has {% generation %} spans, these are the answers, byte for byte.
  virtual RenderedChat render(const Conversation& conversation, bool add_generation_prompt = false) const = 0;
  // Texts that end an assistant turn (for stopping generation), e.g. "<|im_end|>".
  virtual std::vector<std::string> stop_texts() const = 0;
  // The Jinja source to be saved beside a tuned model so that other tools talk to it the same way.
  virtual std::string jinja_source() const = 0;
};

}  // namespace attune::text
