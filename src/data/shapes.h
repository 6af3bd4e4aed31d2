// One row as JSON → a record. Without a mapping the shape is told from the keys of the row; where they allow more than one
// reading, the row is refused with what to write into dataset_info.json.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/file_rows.h"
#include "data/mapping.h"
#include "data/record.h"

namespace attune::data {

// What happened to a row that is used all the same.
using Notes = std::vector<std::pair<DataReport::Action, std::string>>;

// Throws BadRow, also for a row of another kind than the stage needs, with the stage that takes it.
Record read_row(const Json& row, const Mapping& mapping, RowKind kind, Notes& notes);

// Column names that say what a row is without a mapping (the header of a table is known by them).
const std::vector<std::string>& known_columns();

}  // namespace attune::data
