#include "cli/arguments.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/files.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::cli {

namespace {

struct FileAndOverrides {
  std::string file;  // empty: none
  std::vector<std::string> overrides;
};

FileAndOverrides split(const std::vector<std::string>& arguments) {
  if (arguments.empty() || (arguments[0].find('=') != std::string::npos && !fs::exists(arguments[0]))) return {"", arguments};
  const std::string& file = arguments[0];
  if (!fs::exists(file)) refuse("{}: no such configuration file (settings are given as key=value)", file);
  if (!fs::is_regular_file(file)) refuse("{}: not a regular file", file);
  return {file, {arguments.begin() + 1, arguments.end()}};
}

}  // namespace

train::Config read_config(const std::vector<std::string>& arguments, bool needs_data) {
  const auto [file, overrides] = split(arguments);
  return train::load_config(file, overrides, needs_data);
}

std::vector<train::Config> read_stages(const std::vector<std::string>& arguments, bool needs_data) {
  const auto [file, overrides] = split(arguments);
  return train::load_stages(file, overrides, needs_data);
}

namespace {

bool is_name(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c >= 0x80; });
}

models::NamedAdapter named_adapter(const std::string& value) {
  const size_t sign = value.find('=');
  if (sign != std::string::npos && is_name(value.substr(0, sign)) && !fs::is_directory(value)) return {value.substr(0, sign), value.substr(sign + 1)};
  const fs::path path = fs::path(value).lexically_normal();
  return {(path.has_filename() ? path : path.parent_path()).filename().string(), value};
}

}  // namespace

models::AdapterRequest adapters_of(const std::vector<std::string>& values, const std::string& use, bool switching) {
  models::AdapterRequest request;
  if (values.empty() && !use.empty()) refuse("--use chooses among adapters, and there is no --adapter");
  for (const std::string& value : values) {
    if (value.find(',') == std::string::npos || fs::is_directory(value)) {
      request.set.push_back(named_adapter(value));
      continue;
    }
    if (values.size() > 1 || !use.empty())
      refuse("--adapter {}: a chain (first,second) is one whole and cannot be one of several, or be chosen with --use. Merge it into a model of its own, or name its parts with an "
             "--adapter each where none was trained on top of another", value);
    for (size_t at = 0; at <= value.size();) {
      const size_t end = std::min(value.find(',', at), value.size());
      request.chain.push_back(value.substr(at, end - at));
      at = end + 1;
    }
    return request;
  }
  if (request.set.size() == 1 && use.empty() && !switching && request.set[0].directory == values[0]) {
    request.set.clear();
    request.chain = values;
    return request;
  }
  for (size_t i = 0; i < request.set.size(); ++i) {
    const std::string& name = request.set[i].name;
    if (!is_name(name) || name == "none") refuse("--adapter {}: give it a name to be chosen by: NAME={}", values[i], request.set[i].directory);
    for (size_t j = 0; j < i; ++j)
      if (request.set[j].name == name) refuse("--adapter: {} and {} are both called {}; name them: NAME=DIRECTORY", values[j], values[i], name);
  }
  request.use = use;
  return request;
}

Quantization trained_on(const std::string& directory) {
  const fs::path adapter = fs::weakly_canonical(directory);
  for (const fs::path& run : {adapter, adapter.filename().string().starts_with("checkpoint-") ? adapter.parent_path() : fs::path()})
    if (!run.empty() && fs::exists(run / "attune_config.yaml")) return train::read_resolved(run / "attune_config.yaml").quantization();
  return {};
}

void note_base(const models::AdapterRequest& adapters, const Quantization& held) {
  if (held.on()) return;
  for (const std::string& directory : adapters.directories()) {
    try {
      if (const Quantization trained = trained_on(directory); trained.on())
        notice("{} was trained beside a base in {}; here the base is as its files have it. --quantization {} holds it as then", directory, text_of(trained), text_of(trained));
    } catch (const Error&) {  // a record that cannot be read says nothing
    }
  }
}

std::vector<std::string> read_lines(const std::string& file) {
  if (!fs::exists(file)) refuse("{}: no such file", file);
  // Opening a pipe would wait for its other end.
  if (!fs::is_regular_file(file)) refuse("{}: not a regular file", file);
  const std::string content = read_file(file, uint64_t{1} << 40);
  std::vector<std::string> lines;
  for (size_t at = 0; at < content.size();) {
    size_t end = content.find('\n', at);
    if (end == std::string::npos) end = content.size();
    lines.push_back(content.substr(at, end - at));
    if (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    at = end + 1;
  }
  return lines;
}

std::vector<int32_t> read_ids(const std::string& line, const std::string& where, int64_t vocab_size) {
  const Json json = parse_json(line, where);
  if (!json.is_array()) refuse("{}: expected a JSON array of token ids", where);
  std::vector<int32_t> ids;
  for (const Json& id : json) {
    if (!id.is_number_integer()) refuse("{}: a token id must be a whole number, not {}", where, id.dump().substr(0, 40));
    // Unsigned numbers beyond 63 bits become negative here.
    const auto value = id.get<int64_t>();
    if (value < 0 || value >= vocab_size) refuse("{}: token id {} does not exist; the vocabulary has {} entries", where, id.dump(), vocab_size);
    ids.push_back(static_cast<int32_t>(value));
  }
  return ids;
}

}  // namespace attune::cli
