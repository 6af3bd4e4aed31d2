// What to change where a run does not fit: rungs from nearly free to dear, their combinations, and which of them fit.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "plan/planner.h"

namespace attune::plan {

using Settings = std::vector<std::pair<std::string, std::string>>;  // key, value

// One way to save memory. Of one family at most one rung is taken.
struct Rung {
  std::string family;
  // What it sets, given the configuration; empty where it does nothing there or cannot be.
  Settings (*settings)(const train::Config& config, const models::DecoderConfig& architecture);
  // What it does to the result, as a price in percent: the ranking adds it to the loss of speed.
  double price;
  std::string quality;
};
// Cheapest first. Rungs whose optimizer is not there are left out.
const std::vector<Rung>& ladder();

struct Suggestion {
  Settings settings;
  std::string quality;
  double price = 0;         // quality and speed together
  double speed_change = 0;  // of tokens/s, in percent; 0 where speed was not asked for
  double tokens_per_second = 0;
  uint64_t peak_bytes = 0;
  bool fits = false;
  std::string change() const;  // "key: value, key: value"
};

// Combinations of rungs that take less memory than `plan`: those that fit, cheapest first; where none does, the smallest.
// Training fewer layers and cutting sequences are only looked at where nothing else fits. At most `most`.
std::vector<Suggestion> suggestions(const train::RunSetup& setup, const Plan& plan, Calibration* calibration, size_t most = 5);

// Settles `per_device_train_batch_size: auto` and, where the run does not fit, `auto_fit`; `setup` is arranged anew. A run that
// resumes takes what it recorded. Returns what was chosen and why, a line each. Refuses where nothing fits.
// `available`: bytes; 0: what this machine has now.
std::vector<std::string> settle(train::RunSetup& setup, uint64_t available = 0);

// The configuration with other values for some keys.
train::Config with_settings(const train::Config& config, const Settings& settings, const std::string& where);

}  // namespace attune::plan
