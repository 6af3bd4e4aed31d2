// Values of a configuration as they were written, and what they may be read as.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"
#include "util/error.h"

namespace attune::train {

// One value as written, and where.
struct Given {
  std::string key, where;
  std::vector<std::string> values;  // one, or a list
  Config::Pairs pairs;              // a map
  bool is_list = false, is_map = false;
  const std::string& scalar() const {
    if (is_list || is_map || values.size() != 1) refuse("{}: {} must be a single value, not a {}", where, key, is_map ? "map" : "list");
    return values[0];
  }
};

// Each refuses what does not fit, naming file, line and key.
bool boolean(const Given& given);
double number(const Given& given, double low, double high);
int64_t whole(const Given& given, int64_t low, int64_t high);
std::string choice(const Given& given, const std::vector<std::string>& known);
// A list, or words with commas between them.
std::vector<std::string> names(const Given& given);
// A map in YAML, a JSON object as text, or "a=1,b=2".
Config::Pairs pairs(const Given& given);

}  // namespace attune::train
