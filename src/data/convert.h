// Records → rows of the formats that other tools read.
#pragma once

#include <string>

#include "data/shapes.h"

namespace attune::data {

enum class Format { alpaca, sharegpt, messages, text };
// Refuses an unknown name, with the known ones.
Format parse_format(const std::string& name, const std::string& option);
// How a file is read that is said to be in this format.
Mapping mapping_of(Format format);

// What the format cannot say goes into `lost`. Throws BadRow where nothing sensible is left of the record.
Json to_row(const Record& record, Format format, Notes& lost);

}  // namespace attune::data
