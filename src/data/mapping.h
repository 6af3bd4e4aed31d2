// Which columns and tags of a data set mean what: LLaMA-Factory's dataset_info.json, one entry.
#pragma once

#include <string>

namespace attune::data {

struct Mapping {
  enum class Formatting { detect, alpaca, sharegpt, openai };
  Formatting formatting = Formatting::detect;
  bool explicit_columns = false;
  // Names of columns; empty: not used.
  std::string prompt = "instruction", query = "input", response = "output", history, messages, system, tools;
  std::string chosen, rejected, kto_tag;
  bool ranking = false;  // rows are preference pairs
  // Keys of a turn, and the values that its role has.
  std::string role_tag, content_tag, user_tag, assistant_tag, observation_tag, function_tag, system_tag;
  // What messages call the place that says so ("dataset_info.json, data set \"x\"").
  std::string where;
  bool is_pairs() const { return ranking || !chosen.empty() || !rejected.empty(); }
};

}  // namespace attune::data
