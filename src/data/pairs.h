// Preference pairs: a prompt, a chosen and a rejected answer. The shapes of MedicalGPT, LLaMA-Factory (alpaca, sharegpt), TRL
// (also with the prompt inside of both sides) and ms-swift.
#pragma once

#include <string>

#include "data/shapes.h"

namespace attune::data {

// Throws BadRow.
void read_pair(const Json& row, const Mapping& mapping, Record& record, Notes& notes);

// The answer column that holds [chosen, rejected], as LLaMA-Factory's older files have it; or nothing.
std::string list_of_two(const Json& row);

}  // namespace attune::data
