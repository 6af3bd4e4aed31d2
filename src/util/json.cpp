#include "util/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "util/error.h"
#include "util/files.h"

namespace attune {
namespace {

constexpr int kMaxDepth = 64;

// Refuses duplicate keys and bombs of nesting while nlohmann parses.
class StrictCallback {
 public:
  explicit StrictCallback(std::string source) : source_(std::move(source)) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) fail("{}: JSON is nested deeper than {} levels", source_, kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key && !keys_.back().insert(parsed.get<std::string>()).second)
      fail("{}: duplicate key \"{}\" in a JSON object", source_, parsed.get<std::string>());
    return true;
  }

 private:
  std::string source_;
  std::vector<std::set<std::string>> keys_;
};

void dump_inline(const Json& value, std::string& out) {
  if (value.is_object()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.items()) {
      if (!first) out += ", ";
      first = false;
      out += Json(key).dump(-1, ' ', false, Json::error_handler_t::replace);
      out += ": ";
      dump_inline(item, out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i) out += ", ";
      dump_inline(value[i], out);
    }
    out += ']';
  } else {
    out += value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source) {
  // The parser takes a NUL byte for the end of its input and would not see what follows.
  if (text.find('\0') != std::string_view::npos) fail("{}: not valid JSON: it holds a NUL byte", source);
  try {
    StrictCallback callback(source);
    return Json::parse(text.begin(), text.end(), std::ref(callback));
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not valid JSON: {}", source, e.what());
  }
}

Json read_json(const std::filesystem::path& file) { return parse_json(read_file(file), file.string()); }

std::string dump_json(const Json& value, int indent) {
  if (indent >= 0) return value.dump(indent, ' ', false, Json::error_handler_t::replace);
  std::string out;
  dump_inline(value, out);
  return out;
}

}  // namespace attune
