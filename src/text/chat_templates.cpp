#include "text/chat_templates.h"

namespace attune::text {
namespace {

// Every source may use `turn_end` (the text that ends a turn) and `begin` (the BOS where the tokenizer wants
// one), which are set in front of it.

// What follows is shared by chatml and qwen: ChatML with Qwen's way of writing tools. `has_system` and
// `system` are set before it.
constexpr const char* kChatml = R"JINJA({{- begin }}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if has_system %}
        {{- system ~ '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" ~ turn_end ~ "\n" }}
{%- elif has_system %}
    {{- '<|im_start|>system\n' ~ system ~ turn_end ~ '\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ turn_end ~ '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' ~ message.role }}
        {%- if message.content %}
            {{- '\n' ~ message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- turn_end ~ '\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- turn_end ~ '\n' }}
        {%- endif %}
    {%- elif message.role != "system" %}
        {{- raise_exception('this template has no role "' ~ message.role ~ '"') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
)JINJA";

constexpr const char* kSystemIfGiven =
    R"JINJA({%- set has_system = messages and messages[0].role == 'system' %}
{%- set system = messages[0].content if has_system else '' %}
)JINJA";

// LLaMA-Factory's `qwen` (and Qwen2.5's own default), not MedicalGPT's "You are a helpful assistant.".
constexpr const char* kSystemOfQwen = R"JINJA({%- set has_system = true %}
{%- set system = messages[0].content if messages and messages[0].role == 'system' else 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}
)JINJA";

constexpr const char* kLlama3 = R"JINJA({%- if tools %}
    {{- raise_exception('the built-in template llama3 has no text for tools; use the template of the model') }}
{%- endif %}
{{- begin }}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- raise_exception('the built-in template llama3 has no text for tool calls; use the template of the model') }}
    {%- endif %}
    {{- '<|start_header_id|>' ~ ('ipython' if message.role == 'tool' else message.role) ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ turn_end }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)JINJA";

// The Alpaca text. A system message takes the place of the preamble; later turns follow an empty line.
constexpr const char* kAlpaca = R"JINJA({%- if tools %}
    {{- raise_exception('the built-in template alpaca has no text for tools; use chatml, qwen or the template of the model') }}
{%- endif %}
{{- begin }}
{%- if messages and messages[0].role == 'system' %}
    {{- messages[0].content ~ '\n\n' }}
{%- else %}
    {{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '### Instruction:\n' ~ message.content ~ '\n\n### Response:\n' }}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- message.content ~ turn_end }}
        {%- if not loop.last %}
            {{- '\n\n' }}
        {%- endif %}
    {%- elif not (message.role == 'system' and loop.first) %}
        {{- raise_exception('the built-in template alpaca has no text for a message of role "' ~ message.role ~ '" here') }}
    {%- endif %}
{%- endfor %}
)JINJA";

// LLaMA-Factory's `default`: every turn ends with EOS.
constexpr const char* kDefault = R"JINJA({%- if tools %}
    {{- raise_exception('the built-in template default has no text for tools; use chatml, qwen or the template of the model') }}
{%- endif %}
{{- begin }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- 'System: ' ~ message.content ~ turn_end ~ '\n' }}
    {%- elif message.role == 'user' %}
        {{- 'Human: ' ~ message.content ~ turn_end ~ '\nAssistant:' }}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- message.content ~ turn_end ~ '\n' }}
    {%- else %}
        {{- raise_exception('the built-in template default has no text for a message of role "' ~ message.role ~ '" here') }}
    {%- endif %}
{%- endfor %}
)JINJA";

}  // namespace

const std::vector<BuiltinTemplate>& builtin_templates() {
  static const std::vector<BuiltinTemplate> kTemplates = {
      {"alpaca", kAlpaca, {}, ""},
      {"chatml", std::string(kSystemIfGiven) + kChatml, {"<|im_start|>", "<|im_end|>"}, "<|im_end|>"},
      {"qwen", std::string(kSystemOfQwen) + kChatml, {"<|im_start|>", "<|im_end|>"}, "<|im_end|>"},
      {"llama3", kLlama3, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, "<|eot_id|>"},
      {"default", kDefault, {}, ""},
  };
  return kTemplates;
}

}  // namespace attune::text
