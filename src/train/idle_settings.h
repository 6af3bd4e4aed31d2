// Keys that are set but have no effect beside the others. They do no harm, and files of other tools carry them, but nobody should wonder
// why they changed nothing.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "train/config.h"

namespace attune::train {

// Of the keys in `own`, in the order in which they were set.
std::vector<std::string> idle_settings(const Config& config, const std::set<std::string>& own);

}  // namespace attune::train
