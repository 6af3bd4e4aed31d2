// What a directory or file holds, told by its bytes: it may hold something else tomorrow, under the same name.
#pragma once

#include <string>

#include "formats/model_directory.h"
#include "train/config.h"

namespace attune::train {

// config.json and weights.
std::string content_of(formats::ModelDirectory& model);
// adapter_config.json and tensors.
std::string content_of_adapter(const std::string& directory);
// Everything on disk that decides what a run learns: the base, the adapters it begins with, the reference, its data.
std::string content_of_inputs(const Config& config);

}  // namespace attune::train
