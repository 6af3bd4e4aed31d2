// JSON documents in file order. Parsing is strict: duplicate keys, depth over 64 and trailing text are
// errors that name the source, so a file means the same to us and to every other reader.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace attune {

using Json = nlohmann::ordered_json;

// `source` is what an error message calls the text ("config.json", "data.jsonl:17").
Json parse_json(std::string_view text, const std::string& source);
Json read_json(const std::filesystem::path& file);

// As Python's json.dumps does it: ", " and ": " separators, or indented by `indent`; UTF-8 kept.
std::string dump_json(const Json& value, int indent = -1);

}  // namespace attune
