#include "text/extend.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "text/unicode.h"
#include "util/error.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::text {
namespace {

constexpr size_t kLongestContent = 512, kMostTokens = 100'000;

Json entry(const NewToken& t, Json j = Json::object()) {
  j["content"] = t.content;
  j["lstrip"] = false;
  j["normalized"] = !t.special;
  j["rstrip"] = false;
  j["single_word"] = false;
  j["special"] = t.special;
  return j;
}

// Behind the last entry of the document's own "added_tokens": the place of its closing bracket; npos where there is none. The
// text is valid JSON, or its tokenizer would not have been read.
size_t end_of_added_tokens(const std::string& text) {
  int depth = 0;
  bool wanted = false;  // inside of the list
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      const size_t begin = i + 1;
      for (++i; i < text.size() && text[i] != '"'; ++i)
        if (text[i] == '\\') ++i;
      if (depth != 1 || std::string_view(text).substr(begin, i - begin) != "added_tokens") continue;
      const size_t colon = text.find_first_not_of(" \t\r\n", i + 1);
      const size_t value = colon == std::string::npos || text[colon] != ':' ? std::string::npos : text.find_first_not_of(" \t\r\n", colon + 1);
      wanted |= value != std::string::npos && text[value] == '[';
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      if (wanted && c == ']' && depth == 2) return i;
      --depth;
    }
  }
  return std::string::npos;
}

void add_to_tokenizer_json(const fs::path& file, const std::vector<NewToken>& tokens) {
  std::string text = read_file(file);
  std::vector<std::string> entries;
  for (const NewToken& t : tokens) {
    entries.push_back(dump_json(entry(t, {{"id", t.id}})));
  }
  const std::string more = fmt::format("{}", fmt::join(entries, ","));
  if (const size_t end = end_of_added_tokens(text); end != std::string::npos) {
    const size_t last = text.find_last_not_of(" \t\r\n", end - 1);
    text.insert(last + 1, (text[last] == '[' ? "" : ",") + more);
  } else {
    const size_t begin = text.find('{');
    if (begin == std::string::npos || text.find("\"added_tokens\"") != std::string::npos)
      fail("{}: \"added_tokens\" is not a list; tokens cannot be added to it", file.string());
    text.insert(begin + 1, "\"added_tokens\":[" + more + "],");
  }
  write_file(file, text);
}

// Special tokens by their texts, under the name that the file uses.
void add_specials(Json& json, const std::vector<NewToken>& tokens) {
  const char* key = json.contains("extra_special_tokens") && json["extra_special_tokens"].is_array() ? "extra_special_tokens" : "additional_special_tokens";
  for (const NewToken& t : tokens) {
    if (!t.special) continue;
    if (!json.contains(key) || !json[key].is_array()) json[key] = Json::array();
    json[key].push_back(t.content);
  }
}

}  // namespace

std::vector<NewToken> new_tokens(const Tokenizer& tokenizer, const std::vector<std::string>& plain, const std::vector<std::string>& special) {
  std::vector<NewToken> out;
  std::set<std::string> seen;
  auto next = static_cast<TokenId>(tokenizer.vocab_size());
  for (const auto* list : {&plain, &special}) {
    const bool is_special = list == &special;
    const char* key = is_special ? "add_special_tokens" : "add_tokens";
    for (const std::string& text : *list) {
      if (text.empty() || text.find_first_not_of(" \t\r\n") == std::string::npos) refuse("{}: a token cannot be empty or nothing but spaces", key);
      if (text.size() > kLongestContent) refuse("{}: \"{}…\" has {} bytes; a token has at most {}", key, text.substr(0, 40), text.size(), kLongestContent);
      if (!is_valid_utf8(text)) refuse("{}: a token is not UTF-8", key);
      if (!seen.insert(text).second) refuse("{}: \"{}\" stands twice among the new tokens", key, text);
      if (const auto id = tokenizer.token_to_id(text)) {
        if (is_special && !tokenizer.is_special(*id))
          refuse("{}: \"{}\" is an ordinary token of the vocabulary already (id {}); a special token must have a text of its own", key, text, *id);
        continue;
      }
      out.push_back({next++, text, is_special});
      if (out.size() > kMostTokens) refuse("{}: more than {} new tokens", key, kMostTokens);
    }
  }
  return out;
}

void add_to_files(const fs::path& directory, const std::vector<NewToken>& tokens) {
  const fs::path fast = directory / "tokenizer.json", config = directory / "tokenizer_config.json", map = directory / "special_tokens_map.json",
                 added = directory / "added_tokens.json";
  if (!fs::exists(fast) && !fs::exists(directory / "tokenizer.model"))
    refuse("add_tokens: {}: tokens can be added to tokenizer.json and tokenizer.model; there is neither", directory.string());
  if (fs::exists(fast)) add_to_tokenizer_json(fast, tokens);
  bool decoded = false;
  if (fs::exists(config)) {
    Json json = read_json(config);
    add_specials(json, tokens);
    decoded = json.contains("added_tokens_decoder") && json["added_tokens_decoder"].is_object();
    if (decoded)
      for (const NewToken& t : tokens) json["added_tokens_decoder"][std::to_string(t.id)] = entry(t);
    write_file(config, json.dump(2) + "\n");
  }
  if (fs::exists(map)) {
    Json json = read_json(map);
    add_specials(json, tokens);
    write_file(map, json.dump(2) + "\n");
  }
  if (!fs::exists(added) && (decoded || fs::exists(fast))) return;
  Json json = fs::exists(added) ? read_json(added) : Json::object();
  for (const NewToken& t : tokens) json[t.content] = t.id;
  write_file(added, json.dump(2) + "\n");
  if (fs::exists(config) || fs::exists(map)) return;
  Json specials = Json::object();  // what of them is special has no place yet
  add_specials(specials, tokens);
  if (!specials.empty()) write_file(config, specials.dump(2) + "\n");
}

}  // namespace attune::text
