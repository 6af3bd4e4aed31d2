// Ways to tell a model of tools, as Jinja macros: tools_text(tools) belongs to the system's text,
// calls_text(calls) to an answer. The texts are those that the models were trained with (LLaMA-Factory's
// `tool_format`).
#include <fmt/format.h>

#include "text/chat_templates.h"
#include "util/error.h"

namespace attune::text {
namespace {

// A tool or call stands there as such or inside of {"type": "function", "function": …}; arguments are an
// object or its JSON text.
constexpr const char* kCommon = R"JINJA({%- macro arguments_text(call) %}
    {{- call.arguments if call.arguments is string else call.arguments | tojson }}
{%- endmacro %}
)JINJA";

constexpr const char* kDefault = R"JINJA({%- macro tools_text(tools) %}
    {{- 'You have access to the following tools:\n' }}
    {%- for item in tools %}
        {%- set tool = item.function if item.function else item %}
        {{- '> Tool Name: ' ~ tool.name ~ '\nTool Description: ' ~ (tool.description or '') ~ '\nTool Args:\n' }}
        {%- set parameters = tool.parameters or {} %}
        {%- for name, parameter in (parameters.properties or {}).items() %}
            {{- '  - ' ~ name ~ ' (' ~ (parameter.type or '') ~ (', required' if name in (parameters.required or []) else '') ~ '): ' ~ (parameter.description or '') }}
            {%- if parameter.enum %}
                {{- ', should be one of [' ~ parameter.enum | join(', ') ~ ']' }}
            {%- endif %}
            {%- if parameter['items'] is mapping %}
                {{- ', where each item should be ' ~ (parameter['items'].type or '') }}
            {%- endif %}
            {{- '\n' }}
        {%- endfor %}
        {{- '\n' }}
    {%- endfor %}
    {{- 'Use the following format if using a tool:\n```\nAction: tool name (one of [' }}
    {%- for item in tools %}
        {{- (item.function.name if item.function else item.name) ~ ('' if loop.last else ', ') }}
    {%- endfor %}
    {{- '])\nAction Input: the input to the tool, in a JSON format representing the kwargs (e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n' }}
{%- endmacro %}
{%- macro calls_text(calls) %}
    {%- for item in calls %}
        {%- set call = item.function if item.function else item %}
        {{- ('' if loop.first else '\n') ~ 'Action: ' ~ call.name ~ '\nAction Input: ' ~ arguments_text(call) }}
    {%- endfor %}
{%- endmacro %}
)JINJA";

constexpr const char* kQwen = R"JINJA({%- macro tools_text(tools) %}
    {{- '\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' ~ tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' }}
{%- endmacro %}
{%- macro calls_text(calls) %}
    {%- for item in calls %}
        {%- set call = item.function if item.function else item %}
        {{- ('' if loop.first else '\n') ~ '<tool_call>\n{"name": ' ~ call.name | tojson ~ ', "arguments": ' ~ arguments_text(call) ~ '}\n</tool_call>' }}
    {%- endfor %}
{%- endmacro %}
)JINJA";

constexpr const char* kGlm4 = R"JINJA({%- macro tools_text(tools) %}
    {{- '你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具' }}
    {%- for item in tools %}
        {%- set tool = item.function if item.function else item %}
        {{- '\n\n## ' ~ tool.name ~ '\n\n' ~ tool | tojson(indent=4) ~ '\n在调用上述函数时，请使用 Json 格式表示调用的参数。' }}
    {%- endfor %}
{%- endmacro %}
{%- macro calls_text(calls) %}
    {%- if calls | length > 1 %}
        {{- raise_exception('the tool format glm4 has no text for several calls in one answer') }}
    {%- endif %}
    {%- set call = calls[0].function if calls[0].function else calls[0] %}
    {{- call.name ~ '\n' ~ arguments_text(call) }}
{%- endmacro %}
)JINJA";

// The date is the one of the models' own template when it is not told one: a rendering must not depend on
// today.
constexpr const char* kLlama3 = R"JINJA({%- macro tools_text(tools) %}
    {{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nYou have access to the following functions. To call a function, please respond with JSON for a function call. Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. Do not use variables.\n\n' }}
    {%- for item in tools %}
        {%- set tool = item if item.function else {'type': 'function', 'function': item} %}
        {{- tool | tojson(indent=4) ~ '\n\n' }}
    {%- endfor %}
{%- endmacro %}
{%- macro calls_text(calls) %}
    {{- '[' if calls | length > 1 }}
    {%- for item in calls %}
        {%- set call = item.function if item.function else item %}
        {{- ('' if loop.first else ', ') ~ '{"name": ' ~ call.name | tojson ~ ', "parameters": ' ~ arguments_text(call) ~ '}' }}
    {%- endfor %}
    {{- ']' if calls | length > 1 }}
{%- endmacro %}
)JINJA";

constexpr const char* kMistral = R"JINJA({%- macro tools_text(tools) %}
    {{- '[AVAILABLE_TOOLS] [' }}
    {%- for item in tools %}
        {%- set tool = item if item.function else {'type': 'function', 'function': item} %}
        {{- ('' if loop.first else ', ') ~ tool | tojson }}
    {%- endfor %}
    {{- '][/AVAILABLE_TOOLS]' }}
{%- endmacro %}
{%- macro calls_text(calls) %}
    {{- '[TOOL_CALLS] [' }}
    {%- for item in calls %}
        {%- set call = item.function if item.function else item %}
        {{- ('' if loop.first else ', ') ~ '{"name": ' ~ call.name | tojson ~ ', "arguments": ' ~ arguments_text(call) ~ '}' }}
    {%- endfor %}
    {{- ']' }}
{%- endmacro %}
)JINJA";

}  // namespace

const std::vector<std::string>& tool_formats() {
  static const std::vector<std::string> kNames = {"default", "qwen", "glm4", "llama3", "mistral"};
  return kNames;
}

std::string tool_macros(std::string_view format) {
  const char* const macros[] = {kDefault, kQwen, kGlm4, kLlama3, kMistral};
  for (size_t i = 0; i < tool_formats().size(); ++i)
    if (tool_formats()[i] == format) return std::string(kCommon) + macros[i];
  refuse("unknown tool_format \"{}\"; known: {}", format, fmt::join(tool_formats(), ", "));
}

}  // namespace attune::text
