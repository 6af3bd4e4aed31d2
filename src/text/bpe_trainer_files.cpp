#include "text/bpe_trainer_files.h"

#include <nlohmann/json.hpp>

#include "text/json_node.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::text {
namespace {

constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string quoted(const std::string& text) {
  return Json(text).dump();
}

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json normalizer_json(WordPattern pattern) {
  return pattern == WordPattern::qwen2 ? Json{{"type", "NFC"}} : Json(nullptr);
}

Json pre_tokenizer_json(WordPattern pattern) {
  if (pattern == WordPattern::gpt2) return byte_level(true);
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kQwen2Pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level(false)})}};
}

Json added_token(const std::string& content) {
  return {{"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},    {"normalized", false},  {"special", true}};
}

// Written by hand: a JSON library would need many times the memory and an ordered map searches linearly.
std::string tokenizer_json(const TrainedBpe& trained, const BpeTrainerOptions& options) {
  Json added = Json::array();
  for (size_t id = 0; id < options.special_tokens.size(); ++id) {
    Json token = {{"id", id}};
    token.update(added_token(options.special_tokens[id]));
    added.push_back(token);
  }
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  out += "  \"added_tokens\": " + added.dump() + ",\n";
  out += "  \"normalizer\": " + normalizer_json(options.pattern).dump() + ",\n";
  out += "  \"pre_tokenizer\": " + pre_tokenizer_json(options.pattern).dump() + ",\n";
  out += "  \"post_processor\": null,\n  \"decoder\": " + byte_level(true).dump() + ",\n";
  out +=
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": "
      "false,\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  for (size_t id = 0; id < trained.tokens.size(); ++id)
    out += fmt::format("{}\n      {}: {}", id ? "," : "", quoted(trained.tokens[id]), id);
  out += "\n    },\n    \"merges\": [";
  const char* comma = "";
  for (const auto& [left, right] : trained.merges) {
    out += fmt::format("{}\n      [{}, {}]", comma, quoted(trained.tokens[static_cast<size_t>(left)]),
                       quoted(trained.tokens[static_cast<size_t>(right)]));
    comma = ",";
  }
  return out + "\n    ]\n  }\n}\n";
}

Json config_json(const BpeTrainerOptions& options) {
  Json added = Json::object();
  for (size_t id = 0; id < options.special_tokens.size(); ++id)
    added[std::to_string(id)] = added_token(options.special_tokens[id]);
  Json out = {{"add_prefix_space", false}, {"added_tokens_decoder", added}};
  auto put = [&](const char* key, const std::optional<std::string>& token) {
    out[key] = token ? Json(*token) : Json(nullptr);
  };
  put("bos_token", options.bos_token);
  put("eos_token", options.eos_token);
  put("pad_token", options.pad_token);
  put("unk_token", options.unk_token);
  if (!options.chat_template.empty()) out["chat_template"] = options.chat_template;
  out["clean_up_tokenization_spaces"] = false;
  out["model_max_length"] = options.model_max_length;
  out["tokenizer_class"] = "PreTrainedTokenizerFast";
  return out;
}

}  // namespace

void add_pipeline(WordPattern pattern, Normalizer& normalizer, PreTokenizer& pre_tokenizer) {
  simdjson::dom::parser parser;
  const std::string where = "the trainer's own pipeline";
  if (const Json json = normalizer_json(pattern); !json.is_null())
    normalizer.add(JsonNode(parser.parse(json.dump()).value(), where));
  pre_tokenizer.add(JsonNode(parser.parse(pre_tokenizer_json(pattern).dump()).value(), where));
}

void write_tokenizer_files(const TrainedBpe& trained, const BpeTrainerOptions& options,
                           const fs::path& out_dir) {
  fs::create_directories(out_dir);
  write_file_atomic(out_dir / "tokenizer.json", tokenizer_json(trained, options));
  write_file_atomic(out_dir / "tokenizer_config.json", dump_json(config_json(options), 2) + "\n");
}

}  // namespace attune::text
