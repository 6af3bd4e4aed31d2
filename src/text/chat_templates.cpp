// The texts of the built-in templates. docs/templates.md tells where each comes from.
#include "text/chat_templates.h"

namespace attune::text {
namespace {

constexpr std::string_view kMedical = "MedicalGPT", kFactory = "LLaMA-Factory";
constexpr std::string_view kChatmlUser = "<|im_start|>user\n{}{end}\n{answer}<|im_start|>assistant\n";
constexpr std::string_view kChatmlSystem = "<|im_start|>system\n{}{end}\n";
constexpr std::string_view kChatmlResult = "<|im_start|>user\n<tool_response>\n{}\n</tool_response>{end}\n";
constexpr std::string_view kHelpful = "You are a helpful assistant.";
constexpr std::string_view kInternSystem =
    "You are an AI assistant whose name is InternLM (书生·浦语).\n"
    "- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory "
    "(上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
    "- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such "
    "as "
    "English and 中文.";

TemplateTexts chatml(std::string_view name, std::string_view aliases, std::string_view default_system,
                     std::string_view source) {
  return {.name = name,
          .aliases = aliases,
          .turn_end = "<|im_end|>",
          .user = kChatmlUser,
          .system = kChatmlSystem,
          .default_system = default_system,
          .behind = "\n",
          .between = {},
          .result = kChatmlResult,
          .between_results = "\n</tool_response>\n<tool_response>\n",
          .tool_format = "qwen",
          .source = source,
          .system_anywhere = true};
}

TemplateTexts plain(std::string_view name, std::string_view user, std::string_view system,
                    std::string_view between, std::string_view source) {
  return {.name = name,
          .aliases = {},
          .turn_end = {},
          .user = user,
          .system = system,
          .default_system = {},
          .behind = {},
          .between = between,
          .result = {},
          .between_results = "\n",
          .tool_format = "default",
          .source = source};
}

std::vector<TemplateTexts> all_texts() {
  std::vector<TemplateTexts> out;
  out.reserve(64);  // references to entries are used while others are added
  auto add = [&](TemplateTexts texts) -> TemplateTexts& { return out.emplace_back(texts); };
  // Plain texts, closed by EOS.
  TemplateTexts& alpaca =
      add(plain("alpaca", "### Instruction:\n{}{answer}\n\n### Response:\n", "{}\n\n", "\n\n", kFactory));
  alpaca.default_system =
      "Below is an instruction that describes a task. Write a response that appropriately completes the "
      "request.";
  add(chatml("chatml", "yi", "", kFactory));
  add(chatml("qwen", "qwen2_5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
             kFactory));
  TemplateTexts& llama3 = add(plain("llama3",
                                    "<|start_header_id|>user<|end_header_id|>\n\n{}{end}{answer}<|start_"
                                    "header_id|>assistant<|end_header_id|>\n\n",
                                    "<|start_header_id|>system<|end_header_id|>\n\n{}{end}", "", kFactory));
  llama3.turn_end = "<|eot_id|>";
  llama3.result = "<|start_header_id|>ipython<|end_header_id|>\n\n{}{end}";
  llama3.tool_format = "llama3";
  llama3.system_anywhere = llama3.trims = true;
  llama3.aliases = "llama3_1 llama3_2";
  TemplateTexts& standard =
      add(plain("default", "Human: {}{end}\n{answer}Assistant:", "System: {}{end}\n", "", kFactory));
  standard.behind = "\n";
  standard.system_anywhere = true;
  add(plain("empty", "{}", "{}", "", kFactory));

  TemplateTexts& vicuna = add(plain("vicuna", "USER: {}{answer} ASSISTANT:", "{}{end}", "", kMedical));
  vicuna.default_system =
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
      "detailed, "
      "and polite answers to the user's questions.";
  add(plain("base", "{}", "{}{end}", "", kMedical));
  add(plain("baichuan", "<reserved_102>{}{answer}<reserved_103>", "{}", "", kMedical));
  add(plain("baichuan2", "<reserved_106>{}{answer}<reserved_107>", "{}", "", kMedical));
  add(plain("ziya", "<human>:{}{answer}\n<bot>:", "{}\n", "\n", kMedical));
  add(plain("linly", "User: {}{answer}\nBot: ", "{}\n", "\n", kMedical));
  add(plain("chatglm", "问：{}{answer}\n答：", "{}\n", "\n", kMedical));
  add(plain("chatglm2", "问：{}{answer}\n\n答：", "{}\n\n", "\n\n", kMedical));
  TemplateTexts& chatglm3 =
      add(plain("chatglm3", "<|user|>\n{}{answer}<|assistant|>", "<|system|>\n{}", "\n", kMedical));
  chatglm3.result = "<|observation|>\n{}";
  chatglm3.tool_format = "glm4";
  TemplateTexts& phoenix =
      add(plain("phoenix", "Human: <s>{}</s>{answer}Assistant: ", "{}</s>", "", kMedical));
  phoenix.default_system =
      "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
      "detailed, "
      "and polite answers to the human's questions.\n\n";
  add(plain("belle", "Human: {}{answer}\n\nBelle: ", "{}\n\n", "\n\n", kMedical));
  TemplateTexts& aquila = add(plain("aquila", "Human: {}###{answer}Assistant:", "{}###", "###", kMedical));
  aquila.default_system =
      "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
      "detailed, "
      "and polite answers to the human's questions.";
  TemplateTexts& intern =
      add(plain("intern", "<|User|>:{}<eoh>\n{answer}<|Bot|>:", "<|System|>:{}\n", "\n", kMedical));
  intern.turn_end = "<eoa>";
  add(chatml("intern2", "", kInternSystem, kFactory));
  TemplateTexts& starchat =
      add(plain("starchat", "<|user|>\n{}<|end|>\n{answer}<|assistant|>\n", "{}<|end|>\n", "\n", kMedical));
  starchat.default_system = "<system>\n";
  starchat.turn_end = "<|end|>";
  TemplateTexts& llama2 =
      add(plain("llama2", "{bos}[INST] {} [/INST]", "<<SYS>>\n{}\n<</SYS>>\n\n", "", kFactory));
  llama2.system_in_user = true;
  llama2.begins_with_bos = false;
  TemplateTexts& llama2_zh = add(llama2);
  llama2_zh.name = "llama2-zh";
  llama2_zh.aliases = "llama2_zh";
  llama2_zh.default_system = "You are a helpful assistant. 你是一个乐于助人的助手。";
  TemplateTexts& mistral = add(plain("mistral", "[INST] {} [/INST]", "{}\n\n", "", kMedical));
  mistral.system_in_user = true;
  mistral.tool_format = "mistral";
  mistral.result = "[TOOL_RESULTS] {\"content\": {}}[/TOOL_RESULTS]";
  add(plain("xverse", "Human: {}{answer}\n\nAssistant: ", "{}", "", kMedical));
  add(plain("deepseek", "User: {}{answer}\n\nAssistant:", "{}\n\n", "", kFactory));
  add(plain("deepseek3", "<｜User｜>{}{answer}<｜Assistant｜>", "{}", "", kFactory));
  TemplateTexts& coder =
      add(plain("deepseekcoder", "### Instruction:\n{}\n{answer}### Response:\n", "{}", "", kFactory));
  coder.default_system =
      "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek "
      "Company, and you "
      "only answer questions related to computer science. For politically sensitive questions, security and "
      "privacy "
      "issues, and other non-computer science questions, you will refuse to answer.\n";
  coder.before_end = "\n";
  coder.turn_end = "<|EOT|>";
  coder.behind = "\n";
  add(plain("orion", "Human: {}{answer}\n\nAssistant: </s>", "{}", "", kMedical));
  TemplateTexts& cohere =
      add(plain("cohere",
                "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>{answer}<|START_OF_TURN_TOKEN|><"
                "|CHATBOT_TOKEN|>",
                "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>", "", kFactory));
  cohere.system_anywhere = true;
  cohere.turn_end = "<|END_OF_TURN_TOKEN|>";
  add(chatml("qwen2", "qwen1_5", kHelpful, kMedical));
  add(chatml("qwen3", "", "", kFactory)).thinks = true;
  add(chatml("qwen3_nothink", "", "", kFactory));
  add(chatml("qwen3_5", "", "", kFactory)).thinks = true;
  add(chatml("qwen3_5_nothink", "", "", kFactory));
  TemplateTexts& gemma =
      add(plain("gemma", "<start_of_turn>user\n{}<end_of_turn>\n{answer}<start_of_turn>model\n", "{}\n\n", "",
                kFactory));
  gemma.aliases = "gemma2 gemma3";
  gemma.turn_end = "<end_of_turn>";
  gemma.behind = "\n";
  gemma.system_in_user = true;
  gemma.result = "<start_of_turn>tool\n{}<end_of_turn>\n";
  TemplateTexts& phi = add(
      plain("phi", "<|user|>\n{}<|end|>\n{answer}<|assistant|>\n", "<|system|>\n{}<|end|>\n", "", kFactory));
  phi.aliases = "phi3";
  phi.system_anywhere = true;
  phi.turn_end = "<|end|>";
  phi.behind = "\n";
  TemplateTexts& phi4 =
      add(plain("phi4", "<|im_start|>user<|im_sep|>{}<|im_end|>{answer}<|im_start|>assistant<|im_sep|>",
                "<|im_start|>system<|im_sep|>{}<|im_end|>", "", kFactory));
  phi4.system_anywhere = true;
  phi4.turn_end = "<|im_end|>";
  return out;
}

}  // namespace

const std::vector<TemplateTexts>& template_texts() {
  static const std::vector<TemplateTexts> kTexts = all_texts();
  return kTexts;
}

}  // namespace attune::text
