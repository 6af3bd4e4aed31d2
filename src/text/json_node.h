// Checked access to a large JSON file (tokenizer.json): every error names the file and the key.
#pragma once

#include <simdjson.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.h"

namespace attune::text {

class JsonNode {
 public:
  JsonNode(simdjson::dom::element element, std::string where) : element_(element), where_(std::move(where)) {}

  // "tokenizer.json: pre_tokenizer.pattern"
  const std::string& where() const { return where_; }
  const simdjson::dom::element& element() const { return element_; }
  bool is_null() const { return element_.is_null(); }
  bool is_string() const { return element_.is<std::string_view>(); }
  bool is_object() const { return element_.is<simdjson::dom::object>(); }
  bool is_array() const { return element_.is<simdjson::dom::array>(); }

  // The member, or nothing where it is absent or null. A key that stands twice is an error.
  std::optional<JsonNode> find(std::string_view key) const {
    std::optional<JsonNode> found;
    for (const auto& [name, value] : object()) {
      if (name != key) continue;
      if (found) fail("{}: duplicate key \"{}\"", where_, key);
      found.emplace(value, child(key));
    }
    if (found && found->is_null()) found.reset();
    return found;
  }
  JsonNode at(std::string_view key) const {
    auto found = find(key);
    if (!found) fail("{}: key \"{}\" is missing", where_, key);
    return *found;
  }

  simdjson::dom::object object() const { return get<simdjson::dom::object>("an object"); }
  simdjson::dom::array array() const { return get<simdjson::dom::array>("a list"); }
  std::string_view string() const { return get<std::string_view>("a string"); }
  bool boolean() const { return get<bool>("true or false"); }
  int64_t integer() const { return get<int64_t>("an integer"); }

  std::vector<JsonNode> items() const {
    std::vector<JsonNode> out;
    for (simdjson::dom::element item : array())
      out.emplace_back(item, fmt::format("{}[{}]", where_, out.size()));
    return out;
  }
  bool flag(std::string_view key, bool otherwise) const {
    const auto found = find(key);
    return found ? found->boolean() : otherwise;
  }
  std::string text(std::string_view key, std::string_view otherwise) const {
    const auto found = find(key);
    return std::string(found ? found->string() : otherwise);
  }
  // The `type` of a component.
  std::string_view type() const { return at("type").string(); }

 private:
  template <class T>
  T get(const char* expected) const {
    T value;
    if (element_.get(value) != simdjson::SUCCESS) fail("{}: expected {}", where_, expected);
    return value;
  }
  std::string child(std::string_view key) const {
    return where_.ends_with(".json") ? fmt::format("{}: {}", where_, key) : fmt::format("{}.{}", where_, key);
  }

  simdjson::dom::element element_;
  std::string where_;
};

}  // namespace attune::text
