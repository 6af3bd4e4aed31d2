// [config.yaml] [key=value …] → configuration.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"

namespace attune::cli {

train::Config read_config(const std::vector<std::string>& arguments);
std::vector<std::string> read_lines(const std::string& file);

}  // namespace attune::cli
