#include "text/chat.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/chat_answers.h"
#include "text/chat_templates.h"
#include "text/jinja_render.h"
#include "util/error.h"
#include "util/log.h"

namespace attune::text {
namespace {

using jinja::Origin;
using jinja::Source;
using jinja::Text;
using jinja::Value;

constexpr std::string_view kRoles[] = {"system", "developer", "user",    "assistant",
                                       "tool",   "ipython",   "function"};

void check_role(const Message& message, size_t index) {
  if (std::find(std::begin(kRoles), std::end(kRoles), message.role) != std::end(kRoles)) return;
  std::string known;
  for (std::string_view role : kRoles) known += (known.empty() ? "" : ", ") + std::string(role);
  refuse("message {} has the unknown role \"{}\"; known roles: {}", index, message.role, known);
}

// As transformers does: the reasoning of an answer under each of the names that templates read.
void add_reasoning_names(jinja::Dict& fields) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = fields.find(name);
    if (!found || found->is(jinja::Kind::none)) continue;
    const Value reasoning = *found;
    if (!fields.find("thinking"))
      fields.items.insert(fields.items.begin(), {Value::literal("thinking"), reasoning});
    fields.set(Value::literal("reasoning_content"), reasoning);
    return;
  }
}

Value message_value(const Message& message, size_t index) {
  const int number = static_cast<int>(index);
  const Origin origin{Source::message, false, number};
  auto fields = std::make_shared<jinja::Dict>();
  fields->origin = origin;
  fields->message = number;
  fields->set(Value::literal("role"), Value::string(Text(message.role, {Source::role, false, number})));
  fields->set(Value::literal("content"), Value::string(Text(message.content, origin)));
  if (!message.extra_json.empty()) {
    const std::string where = "further fields of message " + std::to_string(index);
    const Json extra = parse_json(message.extra_json, where);
    if (!extra.is_object()) refuse("{}: expected a JSON object", where);
    for (const auto& [key, value] : extra.items()) {
      if (key == "role") refuse("{}: \"role\" is given apart from them", where);
      fields->set(Value::string(Text(key, origin)), Value::from_json(value, origin));
    }
  }
  add_reasoning_names(*fields);
  return Value::dict(std::move(fields));
}

std::string token_text(const Tokenizer& tokenizer, const std::optional<TokenId>& id) {
  return id ? tokenizer.id_to_token(*id) : std::string();
}

std::string strip(std::string text) {
  const auto first = text.find_first_not_of(" \n\t\r"), last = text.find_last_not_of(" \n\t\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

class JinjaChat : public ChatTemplate {
 public:
  JinjaChat(const std::string& source, const std::string& name, const Tokenizer& tokenizer)
      : source_(source), template_(source, name) {
    const Origin origin{Source::context, false, -1};
    const auto add = [&](const char* variable, const std::optional<TokenId>& id) {
      const std::string text = token_text(tokenizer, id);
      if (id) tokens_.emplace_back(variable, Value::string(Text(text, origin)));
      return text;
    };
    bos_ = add("bos_token", tokenizer.bos_id());
    eos_ = add("eos_token", tokenizer.eos_id());
    add("pad_token", tokenizer.pad_id());
    add("unk_token", tokenizer.unk_id());
    for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
      if (!tokenizer.is_special(static_cast<TokenId>(id))) continue;
      if (std::string text = tokenizer.id_to_token(static_cast<TokenId>(id)); !text.empty())
        special_.push_back(std::move(text));
    }
    if (!eos_.empty() && std::find(special_.begin(), special_.end(), eos_) == special_.end())
      special_.push_back(eos_);
    stops_ = find_stops();
  }

  RenderedChat render(const Conversation& conversation, bool add_generation_prompt) const override {
    std::vector<Value> messages;
    std::vector<std::string> roles;
    for (size_t i = 0; i < conversation.messages.size(); ++i) {
      check_role(conversation.messages[i], i);
      messages.push_back(message_value(conversation.messages[i], i));
      roles.push_back(conversation.messages[i].role);
    }
    const Value tools =
        conversation.tools_json.empty() ? Value::none() : tools_value(conversation.tools_json);
    const jinja::Rendered rendered = run(messages, tools, add_generation_prompt);
    const AnswerContext context{rendered,
                                messages,
                                roles,
                                template_.name(),
                                special_,
                                bos_,
                                [&](std::vector<Value> part) { return run(std::move(part), tools, true); },
                                message_value({"user", "x", 1.0f, ""}, messages.size())};
    RenderedChat out;
    out.answers = answers(context, add_generation_prompt);
    out.user_text = user_ranges(rendered.text);
    out.text = rendered.text.bytes();
    return out;
  }

  std::vector<std::string> stop_texts() const override { return stops_; }
  std::string jinja_source() const override { return source_; }

 private:
  // A text to be continued can be used without its answers; a text to be trained on cannot.
  std::vector<RenderedChat::Answer> answers(const AnswerContext& context, bool to_be_continued) const {
    try {
      return template_.has_generation() ? generation_answers(context) : structural_answers(context);
    } catch (const Error&) {
      if (to_be_continued) return {};
      throw;
    }
  }

  static Value tools_value(const std::string& tools_json) {
    const Json json = parse_json(tools_json, "tools of the conversation");
    if (!json.is_array() && !json.is_null())
      refuse("tools of the conversation: expected a JSON list of tool descriptions");
    return Value::from_json(json, {Source::tools, false, -1});
  }

  jinja::Rendered run(std::vector<Value> messages, const Value& tools, bool add_generation_prompt) const {
    jinja::Variables variables = tokens_;
    variables.emplace_back("messages", Value::list(std::move(messages)));
    variables.emplace_back("tools", tools);
    variables.emplace_back("documents", Value::none());
    variables.emplace_back("add_generation_prompt", Value::boolean(add_generation_prompt));
    return template_.render(variables);
  }

  static std::vector<ByteRange> user_ranges(const Text& text) {
    std::vector<ByteRange> out;
    size_t at = 0;
    for (const jinja::Run& run : text.runs()) {
      if (run.origin.from_user()) {
        if (!out.empty() && out.back().end == at) {
          out.back().end = run.end;
        } else {
          out.push_back({at, run.end});
        }
      }
      at = run.end;
    }
    return out;
  }

  // What ends the answers of a small conversation, and EOS.
  std::vector<std::string> find_stops() const {
    std::vector<std::string> out;
    const auto add = [&](const std::string& text) {
      if (!text.empty() && std::find(out.begin(), out.end(), text) == out.end()) out.push_back(text);
    };
    Conversation chat;
    for (const char* role : {"user", "assistant", "user", "assistant"})
      chat.messages.push_back({role, "x", 1.0f, ""});
    try {
      const RenderedChat rendered = render(chat, false);
      for (const RenderedChat::Answer& answer : rendered.answers) {
        size_t behind = answer.range.begin;
        for (const ByteRange& range : rendered.user_text)
          if (range.end <= answer.range.end) behind = std::max(behind, range.end);
        add(first_special(strip(rendered.text.substr(behind, answer.range.end - behind))));
      }
    } catch (const Error&) {
      // The template takes no such conversation; EOS remains.
    }
    add(eos_);
    return out;
  }

  std::string first_special(const std::string& tail) const {
    size_t best = std::string::npos;
    std::string found = tail;
    for (const std::string& token : special_) {
      const size_t at = tail.find(token);
      if (at < best || (at == best && at != std::string::npos && token.size() > found.size())) {
        best = at;
        found = token;
      }
    }
    return found;
  }

  std::string source_;
  jinja::Template template_;
  jinja::Variables tokens_;
  std::string bos_, eos_;
  std::vector<std::string> special_, stops_;
};

bool adds_bos(const Tokenizer& tokenizer) {
  if (!tokenizer.bos_id()) return false;
  EncodeOptions options;
  options.add_special_tokens = true;
  const Encoding encoding = tokenizer.encode("", options);
  return !encoding.ids.empty() && encoding.ids.front() == *tokenizer.bos_id();
}

// The two variables that every built-in source reads. A tokenizer that puts BOS before a text gets it from
// the template, because the texts of templates are tokenised without added tokens: exactly one BOS, never
// two.
std::string builtin_source(const BuiltinTemplate& builtin, const Tokenizer& tokenizer) {
  std::string missing;
  bool has_end = !builtin.turn_end.empty();
  for (const std::string& token : builtin.control_tokens) {
    if (tokenizer.token_to_id(token)) continue;
    missing += (missing.empty() ? "" : ", ") + token;
    if (token == builtin.turn_end) has_end = false;
  }
  if (!missing.empty()) {
    const std::string eos = token_text(tokenizer, tokenizer.eos_id());
    notice("template {}: the tokenizer has no token {}; it is written as ordinary text{}", builtin.name,
           missing,
           has_end       ? std::string()
           : eos.empty() ? ", and there is no EOS to end a turn with"
                         : ", and turns end with " + eos);
    if (!has_end && eos.empty()) has_end = true;
  }
  return "{%- set turn_end = " +
         (has_end && !builtin.turn_end.empty() ? "'" + builtin.turn_end + "'" : "eos_token") +
         " %}\n{%- set begin = " + (adds_bos(tokenizer) ? "bos_token" : "''") + " %}\n" + builtin.source;
}

// Baichuan 2 says by id which tokens open a turn, and some copies of its tokenizer call them otherwise.
void name_role_tokens(BuiltinTemplate& builtin, const Tokenizer& tokenizer) {
  const std::pair<std::string, std::optional<TokenId>> roles[] = {
      {"<reserved_106>", tokenizer.user_role_id()}, {"<reserved_107>", tokenizer.assistant_role_id()}};
  for (const auto& [text, id] : roles) {
    if (!id) continue;
    const std::string piece = tokenizer.id_to_token(*id);
    if (piece.find_first_of("'\\\n") != std::string::npos)
      refuse("template baichuan2: the token {} (\"{}\") cannot open a turn", *id, piece);
    for (std::string* where : {&builtin.source, &builtin.control_tokens[0], &builtin.control_tokens[1]})
      for (size_t at = where->find(text); at != std::string::npos; at = where->find(text, at + piece.size()))
        where->replace(at, text.size(), piece);
  }
}

// The known names, those most like `name` first.
std::vector<std::string> nearest_first(const std::string& name) {
  auto distance = [&](const std::string& other) {
    std::vector<size_t> row(other.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j < row.size(); ++j) {
        const size_t above = row[j];
        row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (name[i - 1] != other[j - 1])});
        diagonal = above;
      }
    }
    return row.back();
  };
  std::vector<std::string> names = ChatTemplate::builtin_names();
  std::stable_sort(names.begin(), names.end(),
                   [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  return names;
}

}  // namespace

std::unique_ptr<ChatTemplate> ChatTemplate::create(const std::string& name, const Tokenizer& tokenizer,
                                                   const std::string& tool_format) {
  if (name.empty()) {
    if (!tool_format.empty())
      refuse("tool_format \"{}\" needs a named template: the model's own has its own way to write tools",
             tool_format);
    if (tokenizer.chat_template().empty())
      refuse("the model has no chat template; choose one with template: (known: {})",
             fmt::join(builtin_names(), ", "));
    return from_jinja(tokenizer.chat_template(), "of the model", tokenizer);
  }
  BuiltinTemplate builtin;
  if (find_builtin(name, tool_format, builtin)) {
    if (builtin.name == "baichuan2") name_role_tokens(builtin, tokenizer);
    return from_jinja(builtin_source(builtin, tokenizer), name, tokenizer);
  }
  refuse("unknown template \"{}\"; known: {} (leave it out to use the model's own)", name.substr(0, 100),
         fmt::join(nearest_first(name.substr(0, 100)), ", "));
}

std::unique_ptr<ChatTemplate> ChatTemplate::from_jinja(const std::string& source,
                                                       const std::string& source_name,
                                                       const Tokenizer& tokenizer) {
  return std::make_unique<JinjaChat>(source, source_name, tokenizer);
}

const std::vector<std::string>& ChatTemplate::builtin_names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const TemplateTexts& texts : template_texts()) names.emplace_back(texts.name);
    return names;
  }();
  return kNames;
}

}  // namespace attune::text
