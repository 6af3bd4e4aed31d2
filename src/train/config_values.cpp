#include "train/config_values.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/json.h"

namespace attune::train {

bool boolean(const Given& g) {
  const std::string& v = g.scalar();
  for (const char* yes : {"true", "True", "TRUE", "yes", "on"})
    if (v == yes) return true;
  for (const char* no : {"false", "False", "FALSE", "no", "off"})
    if (v == no) return false;
  refuse("{}: {} must be true or false, not \"{}\"", g.where, g.key, v);
}

double number(const Given& g, double low, double high) {
  const std::string& v = g.scalar();
  double x = 0;
  const auto [end, error] = std::from_chars(v.data(), v.data() + v.size(), x);
  if (error != std::errc() || end != v.data() + v.size())
    refuse("{}: {} must be a number, not \"{}\"", g.where, g.key, v);
  if (!(x >= low && x <= high)) refuse("{}: {} is {}; expected {} to {}", g.where, g.key, v, low, high);
  return x;
}

int64_t whole(const Given& g, int64_t low, int64_t high) {
  const double x = number(g, static_cast<double>(low), static_cast<double>(high));
  if (x != static_cast<double>(static_cast<int64_t>(x))) refuse("{}: {} must be a whole number, not \"{}\"", g.where, g.key, g.scalar());
  return static_cast<int64_t>(x);
}

std::string choice(const Given& g, const std::vector<std::string>& known) {
  const std::string& v = g.scalar();
  if (std::find(known.begin(), known.end(), v) == known.end())
    refuse("{}: {} \"{}\" is not supported; known are {}{}", g.where, g.key, v, fmt::join(known, ", "), nearest(v, known));
  return v;
}

std::vector<std::string> names(const Given& g) {
  std::vector<std::string> out;
  for (const std::string& v : g.values) {
    size_t at = 0;
    while (at <= v.size()) {
      size_t comma = v.find(',', at);
      if (comma == std::string::npos) comma = v.size();
      std::string item = v.substr(at, comma - at);
      item.erase(0, item.find_first_not_of(' '));
      item.erase(item.find_last_not_of(' ') + 1);
      if (!item.empty()) out.push_back(item);
      at = comma + 1;
    }
  }
  return out;
}

Config::Pairs pairs(const Given& g) {
  if (g.is_map) return g.pairs;
  Config::Pairs out;
  if (g.values.size() == 1 && g.values[0].starts_with("{")) {
    const Json object = parse_json(g.values[0], g.where + ": " + g.key);
    if (!object.is_object()) refuse("{}: {} must be a map", g.where, g.key);
    for (const auto& [key, value] : object.items()) out.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
    return out;
  }
  for (const std::string& item : names(g)) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) refuse("{}: {}: \"{}\" must be name=value (or write a map)", g.where, g.key, item);
    const auto trimmed = [](std::string s) {
      s.erase(0, s.find_first_not_of(' '));
      return s.erase(s.find_last_not_of(' ') + 1);
    };
    out.emplace_back(trimmed(item.substr(0, equals)), trimmed(item.substr(equals + 1)));
    for (size_t i = 0; i + 1 < out.size(); ++i)
      if (out[i].first == out.back().first) refuse("{}: {}: \"{}\" stands twice", g.where, g.key, out[i].first);
  }
  return out;
}

}  // namespace attune::train
