#include "cli/arguments.h"

#include "util/error.h"
#include "util/files.h"

namespace attune::cli {

train::Config read_config(const std::vector<std::string>& arguments) {
  std::string file;
  std::vector<std::string> overrides = arguments;
  if (!arguments.empty() && (arguments[0].find('=') == std::string::npos || fs::exists(arguments[0]))) {
    file = arguments[0];
    if (!fs::exists(file)) refuse("{}: no such configuration file (settings are given as key=value)", file);
    overrides.erase(overrides.begin());
  }
  return train::load_config(file, overrides);
}

std::vector<std::string> read_lines(const std::string& file) {
  if (!fs::exists(file)) refuse("{}: no such file", file);
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

}  // namespace attune::cli
