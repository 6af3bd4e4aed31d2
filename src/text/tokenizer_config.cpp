#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::text {
namespace {

constexpr uint64_t kLargestFile = 256u << 20;

std::optional<Json> read_object(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  Json json = parse_json(read_file(file, kLargestFile), file.string());
  if (!json.is_object()) fail("{}: expected a JSON object", file.string());
  return json;
}

// A special token stands as "text" or as {"content": "text", …}.
std::optional<std::string> token_text(const Json& value, const std::string& where) {
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  fail("{}: expected a token's text or an object with \"content\"", where);
}

std::optional<bool> flag(const Json& json, const char* key, const std::string& where) {
  if (!json.contains(key) || json[key].is_null()) return std::nullopt;
  if (!json[key].is_boolean()) fail("{}: {}: expected true or false", where, key);
  return json[key].get<bool>();
}

AddedToken added_token(const Json& value, TokenId id, const std::string& where) {
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string())
    fail("{}: expected an object with \"content\"", where);
  AddedToken token;
  token.id = id;
  token.content = value["content"].get<std::string>();
  token.special = flag(value, "special", where).value_or(false);
  token.normalized = flag(value, "normalized", where).value_or(!token.special);
  token.single_word = flag(value, "single_word", where).value_or(false);
  token.lstrip = flag(value, "lstrip", where).value_or(false);
  token.rstrip = flag(value, "rstrip", where).value_or(false);
  return token;
}

void read_added(const Json& json, TokenizerConfig& config, const std::string& where) {
  if (!json.is_object()) fail("{}: expected an object of ids", where);
  for (const auto& [key, value] : json.items()) {
    TokenId id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      fail("{}: \"{}\" is not a token id", where, key);
    config.added.push_back(added_token(value, id, where + "." + key));
  }
  std::sort(config.added.begin(), config.added.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
}

// One string, or a list of named templates of which "default" is the one for chats.
std::string template_text(const Json& value, const std::string& where) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array())
    for (const Json& item : value)
      if (item.is_object() && item.value("name", Json()) == "default" && item.contains("template") &&
          item["template"].is_string())
        return item["template"].get<std::string>();
  if (value.is_array()) return "";
  fail("{}: chat_template: expected a string or a list of named templates", where);
}

void read_specials(const Json& json, TokenizerConfig& config, const std::string& where) {
  auto read = [&](const char* key, std::optional<std::string>& into, bool& named) {
    if (named || !json.contains(key)) return;
    named = true;
    into = token_text(json[key], where + ": " + key);
  };
  read("bos_token", config.bos, config.names_bos);
  read("eos_token", config.eos, config.names_eos);
  read("pad_token", config.pad, config.names_pad);
  read("unk_token", config.unk, config.names_unk);
  for (const auto& [key, into] : {std::pair{"cls_token", &config.cls}, std::pair{"sep_token", &config.sep},
                                  std::pair{"mask_token", &config.mask}})
    if (!*into && json.contains(key)) *into = token_text(json[key], where + ": " + key);
  if (json.contains("additional_special_tokens") && json["additional_special_tokens"].is_array())
    for (const Json& item : json["additional_special_tokens"])
      if (auto text = token_text(item, where + ": additional_special_tokens"))
        config.additional_special.push_back(*text);
}

void read_roles(const Json& json, TokenizerConfig& config, const std::string& where) {
  for (const auto& [key, into] : {std::pair{"user_token_id", &config.user_role},
                                  std::pair{"assistant_token_id", &config.assistant_role}}) {
    if (!json.contains(key) || json[key].is_null()) continue;
    if (!json[key].is_number_integer() || json[key].get<int64_t>() < 0 ||
        json[key].get<int64_t>() > INT32_MAX)
      fail("{}: {}: expected a token id", where, key);
    *into = json[key].get<TokenId>();
  }
}

}  // namespace

TokenizerConfig TokenizerConfig::read(const fs::path& directory) {
  TokenizerConfig config;
  const fs::path file = directory / "tokenizer_config.json";
  config.where = file.string();
  if (const auto json = read_object(file)) {
    read_specials(*json, config, file.string());
    config.add_bos = flag(*json, "add_bos_token", file.string());
    config.add_eos = flag(*json, "add_eos_token", file.string());
    config.add_prefix_space = flag(*json, "add_prefix_space", file.string());
    config.legacy = flag(*json, "legacy", file.string());
    config.do_lower_case = flag(*json, "do_lower_case", file.string());
    config.strip_accents = flag(*json, "strip_accents", file.string());
    config.tokenize_chinese_chars = flag(*json, "tokenize_chinese_chars", file.string());
    if (json->contains("added_tokens_decoder"))
      read_added((*json)["added_tokens_decoder"], config, file.string() + ": added_tokens_decoder");
    if (json->contains("chat_template"))
      config.chat_template = template_text((*json)["chat_template"], file.string());
  }
  const fs::path map = directory / "special_tokens_map.json";
  if (const auto json = read_object(map)) read_specials(*json, config, map.string());
  const fs::path added = directory / "added_tokens.json";
  if (const auto json = read_object(added))
    for (const auto& [text, id] : json->items()) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
        fail("{}: \"{}\": expected a token id", added.string(), text);
      config.added_file.emplace_back(text, id.get<TokenId>());
    }
  const fs::path generation = directory / "generation_config.json";
  if (const auto json = read_object(generation)) read_roles(*json, config, generation.string());
  const fs::path jinja = directory / "chat_template.jinja";
  if (fs::exists(jinja)) config.chat_template = read_file(jinja, kLargestFile);
  return config;
}

}  // namespace attune::text
