// Data sets → records. file_rows.h says what a file may be, shapes.h what a row may be, turns.h what becomes of a
// conversation that is not in order. Everything that is not simply used stands in the report with file and line.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "data/record.h"
#include "data/registry.h"

namespace attune::data {

struct ReadOptions {
  RowKind kind = RowKind::conversation;  // what rows must be
  int64_t max_samples = 0;               // rows of each data set; 0: all
  uint64_t seed = 42;                    // of the choice where a data set asks for a number of samples
};

// Takes rows out of `records` as they come, so that not all of a data set is held at once; whatever it leaves stays there.
// `bytes`: how much of the files has been gone through since the last call.
using TakeRows = std::function<void(Records& records, uint64_t bytes)>;

// Appends the rows of a data set. Throws when a file is not data at all, or when no row of it is usable. Rows are read in
// parallel, in blocks; the order and the report are those of the file. With `take`, it is called behind each block; where the
// set asks for a number of rows, all of them are read before some are chosen, and it is called once for rows.
void read_records(const DataSet& set, const ReadOptions& options, Records& records, DataReport& report, const TakeRows& take = {});
// A single file, its shape told from its content.
void read_records(const std::filesystem::path& file, const ReadOptions& options, Records& records, DataReport& report);

}  // namespace attune::data
