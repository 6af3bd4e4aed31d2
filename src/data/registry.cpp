#include "data/registry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "util/error.h"
#include "util/files.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::data {
namespace {

using Formatting = Mapping::Formatting;

constexpr std::array kExtensions{".jsonl", ".json", ".txt", ".csv", ".tsv", ".md"};
constexpr const char* kRegistry = "dataset_info.json";

std::vector<fs::path> files_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const fs::path& path = entry.path();
    const bool data = std::find(kExtensions.begin(), kExtensions.end(), path.extension().string()) != kExtensions.end();
    if (entry.is_regular_file() && data && !path.filename().string().starts_with('.') && path.filename() != kRegistry) files.push_back(path);
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) refuse("dataset: {} is a directory without data files ({})", directory.string(), fmt::join(kExtensions, ", "));
  return files;
}

// Empty where there is nothing at this path.
std::vector<fs::path> files_at(const fs::path& path) {
  if (fs::is_regular_file(path)) return {path};
  for (const char* extension : kExtensions) {
    fs::path with = path;
    with += extension;
    if (fs::is_regular_file(with)) return {with};
  }
  return fs::is_directory(path) ? files_in(path) : std::vector<fs::path>{};
}

void check_keys(const Json& object, const std::vector<std::string>& known, const std::string& where) {
  if (!object.is_object()) refuse("{}: must be an object", where);
  for (const auto& [key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) refuse("{}: unknown key \"{}\"; known are {}", where, key, fmt::join(known, ", "));
}

std::string text_at(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || object[key].is_null()) return "";
  if (!object[key].is_string()) refuse("{}: \"{}\" must be a text", where, key);
  return object[key].get<std::string>();
}

void read_columns(const Json& columns, Mapping& m) {
  const std::string where = m.where + ", columns";
  check_keys(columns, {"prompt", "query", "response", "history", "messages", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"}, where);
  for (const char* media : {"images", "videos", "audios"})
    if (columns.contains(media)) refuse("{}: \"{}\": only text can be learnt here", where, media);
  m.explicit_columns = true;
  // Only what is named is used, as there.
  m.prompt = text_at(columns, "prompt", where);
  m.query = text_at(columns, "query", where);
  m.response = text_at(columns, "response", where);
  m.history = text_at(columns, "history", where);
  m.system = text_at(columns, "system", where);
  m.tools = text_at(columns, "tools", where);
  m.chosen = text_at(columns, "chosen", where);
  m.rejected = text_at(columns, "rejected", where);
  m.kto_tag = text_at(columns, "kto_tag", where);
  if (m.chosen.empty() != m.rejected.empty()) refuse("{}: chosen and rejected belong together", where);
  if (const std::string messages = text_at(columns, "messages", where); !messages.empty()) m.messages = messages;
}

Mapping read_mapping(const Json& entry, const std::string& where) {
  Mapping m;
  m.where = where;
  const std::string formatting = text_at(entry, "formatting", where);
  if (formatting == "sharegpt") m.formatting = Formatting::sharegpt;
  else if (formatting == "openai") m.formatting = Formatting::openai;
  else if (formatting == "alpaca") m.formatting = Formatting::alpaca;
  else if (!formatting.empty()) refuse("{}: unknown formatting \"{}\"; known are alpaca, sharegpt, openai", where, formatting);
  const bool turns = m.formatting == Formatting::sharegpt || m.formatting == Formatting::openai;
  m.messages = m.formatting == Formatting::openai ? "messages" : turns ? "conversations" : "";
  if (turns) m.system = "system", m.tools = "tools";
  if (m.formatting == Formatting::alpaca) m.history = "history", m.system = "system";
  if (entry.contains("columns")) read_columns(entry["columns"], m);
  if (entry.contains("ranking") && !entry["ranking"].is_boolean()) refuse("{}: \"ranking\" must be true or false", where);
  m.ranking = entry.value("ranking", false);
  if (m.is_pairs() && !m.kto_tag.empty()) refuse("{}: rows with a kto_tag are no preference pairs; leave out kto_tag, or ranking, chosen and rejected", where);
  if (!turns && !m.messages.empty())
    refuse("{}: columns.messages needs \"formatting\": \"sharegpt\" or \"openai\"", where);
  if (entry.contains("tags")) {
    const Json& tags = entry["tags"];
    const std::string at = where + ", tags";
    check_keys(tags, {"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"}, at);
    if (!turns) refuse("{}: tags need \"formatting\": \"sharegpt\" or \"openai\"", where);
    m.role_tag = text_at(tags, "role_tag", at);
    m.content_tag = text_at(tags, "content_tag", at);
    if (m.role_tag.empty() != m.content_tag.empty()) refuse("{}: role_tag and content_tag belong together", at);
    m.user_tag = text_at(tags, "user_tag", at);
    m.assistant_tag = text_at(tags, "assistant_tag", at);
    m.observation_tag = text_at(tags, "observation_tag", at);
    m.function_tag = text_at(tags, "function_tag", at);
    m.system_tag = text_at(tags, "system_tag", at);
  }
  return m;
}

DataSet read_entry(const std::string& name, const Json& entry, const fs::path& dataset_dir) {
  const std::string where = fmt::format("{}, data set \"{}\"", (dataset_dir / kRegistry).string(), name);
  check_keys(entry, {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name", "formatting", "ranking", "subset",
                     "split", "folder", "num_samples", "columns", "tags"}, where);
  const std::string file = text_at(entry, "file_name", where);
  if (file.empty())
    for (const char* remote : {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"})
      if (entry.contains(remote))
        refuse("{}: it stands on the network ({}: {}), and nothing is downloaded here. Download it into {} and give \"file_name\" instead "
               "(JSON, JSONL, CSV or text)", where, remote, entry[remote].dump(), dataset_dir.string());
  if (file.empty()) refuse("{}: \"file_name\" is missing", where);
  if (const std::string split = text_at(entry, "split", where); !split.empty() && split != "train")
    refuse("{}: split \"{}\": a local file has no splits; name the file of that split in \"file_name\"", where, split);
  for (const char* key : {"subset", "folder"})
    if (entry.contains(key) && !entry[key].is_null()) notice("{}: \"{}\" has no meaning for a local file; \"file_name\" says it all", where, key);
  DataSet set{name, files_at(dataset_dir / file), read_mapping(entry, where), 0};
  if (set.files.empty()) refuse("{}: the file {} does not exist", where, (dataset_dir / file).string());
  if (entry.contains("num_samples") && !entry["num_samples"].is_null()) {
    if (!entry["num_samples"].is_number_unsigned() || entry["num_samples"] == 0 || entry["num_samples"].get<uint64_t>() > (uint64_t{1} << 40))
      refuse("{}: num_samples must be a whole number from 1", where);
    set.num_samples = entry["num_samples"].get<int64_t>();
  }
  return set;
}

// "name#500" → name and 500.
bool split_number(const std::string& text, std::string& name, int64_t& number) {
  const size_t hash = text.rfind('#');
  if (hash == std::string::npos || hash == 0) return false;
  const auto [end, error] = std::from_chars(text.data() + hash + 1, text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  name = text.substr(0, hash);
  if (number < 1 || number > (int64_t{1} << 40)) refuse("dataset: \"{}\": the number behind # must be at least 1", text);
  return true;
}

}  // namespace

DataSet find_data_set(const std::string& given, const fs::path& dataset_dir) {
  std::string name = given;
  int64_t number = 0;
  if (!fs::exists(given)) split_number(given, name, number);
  const fs::path registry = dataset_dir / kRegistry;
  Json entries = Json::object();
  if (fs::is_regular_file(registry)) entries = read_json(registry);
  if (!entries.is_object()) refuse("{}: must be an object of data sets by name", registry.string());
  DataSet set;
  if (entries.contains(name)) {
    set = read_entry(name, entries[name], dataset_dir);
  } else {
    set.name = fs::path(name).has_parent_path() ? fs::path(name).stem().string() : name;
    for (const fs::path& path : {fs::path(name), dataset_dir / name})
      if (set.files.empty()) set.files = files_at(path);
  }
  if (set.files.empty()) {
    std::vector<std::string> local;
    for (const auto& [key, entry] : entries.items())
      if (entry.is_object() && entry.contains("file_name") && local.size() < 20) local.push_back(key);
    refuse("dataset: \"{}\" is neither a file or directory, nor a name in {}, nor one below dataset_dir ({}){}", name, registry.string(),
           dataset_dir.string(), local.empty() ? "" : fmt::format("; names with local files are {}", fmt::join(local, ", ")));
  }
  if (number > 0) set.num_samples = number;
  return set;
}

}  // namespace attune::data
