// What a finished run leaves behind.
#pragma once

#include "train/setup.h"
#include "util/json.h"

namespace attune::train {

// Writes what a run tuned into an existing directory, with everything that makes it usable: a model directory, or an adapter
// as PEFT saves it.
void save_tuned(const fs::path& directory, const RunSetup& setup, const models::Decoder& model);

// The same in output_dir: every file is complete before it takes its name.
void save_result(const RunSetup& setup, const models::Decoder& model);

// attune_manifest.json: hashes of base, data, configuration and result.
void write_manifest(const RunSetup& setup, int64_t steps);

// Removes what an earlier run of attune left in `output_dir` (checkpoints, logs, results, model files).
void clear_previous_run(const fs::path& output_dir);

}  // namespace attune::train
