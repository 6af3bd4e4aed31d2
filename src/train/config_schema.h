// Every key: its name, type, default, meaning, and how it is set. Parsing and documentation come from this one list.
#pragma once

#include <functional>
#include <set>

#include "train/config_values.h"

namespace attune::train {

struct Key {
  std::string name, section, type, doc;
  std::function<void(Config&, const Given&)> set;
  std::function<std::string(const Config&)> get;
  std::vector<std::string> aliases;
};

// In the order of the documentation.
const std::vector<Key>& schema_keys();
// By name or alias; nullptr where there is none.
const Key* find_key(const std::string& name);

// Keys of TrainingArguments and LLaMA-Factory that steer Python, the cloud or hardware we do not use: accepted once.
const std::set<std::string>& ignored_keys();
// Keys of theirs for what is not here yet: accepted only where they switch it off.
const std::set<std::string>& off_keys();

// A map as JSON text; empty where it is empty.
std::string pairs_text(const Config::Pairs& pairs);

}  // namespace attune::train
