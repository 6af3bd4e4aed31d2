// Records → rows of the formats that other tools read.
#pragma once

#include <string>

#include "data/shapes.h"

namespace attune::data {

// preference and kto: {"prompt", "chosen", "rejected"} and {"prompt", "completion", "label"} with lists of messages, as TRL has them.
enum class Format { alpaca, sharegpt, messages, text, preference, kto };
// Refuses an unknown name, with the known ones.
Format parse_format(const std::string& name, const std::string& option);
// What rows must be that become this format.
RowKind kind_of(Format format);
// How a file is read that is said to be in this format.
Mapping mapping_of(Format format);

// What the format cannot say goes into `lost`. Throws BadRow where nothing sensible is left of the record.
Json to_row(const Record& record, Format format, Notes& lost);

}  // namespace attune::data
