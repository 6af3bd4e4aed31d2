// The names in `dataset:` → files and what is in them. LLaMA-Factory's dataset_info.json
// (https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html); nothing is ever downloaded.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/mapping.h"

namespace attune::data {

struct DataSet {
  std::string name;                          // the name in the configuration without "#500"; of a path, the file's without its extension
  std::vector<std::filesystem::path> files;  // sorted
  Mapping mapping;
  int64_t num_samples = 0;                   // so many rows, chosen by the seed; 0: all
};

// `name` or `name#500`: an entry of dataset_info.json in `dataset_dir`; or a path; or a file or directory below `dataset_dir`,
// with or without its extension. A directory is all data files in it. Refuses what is not found, with what is there.
DataSet find_data_set(const std::string& name, const std::filesystem::path& dataset_dir);

}  // namespace attune::data
