// Whether a checkpoint belongs to the run that wants to continue from it.
#pragma once

#include "models/decoder.h"
#include "train/setup.h"
#include "util/json.h"

namespace attune::train {

// Settings that decide which samples come when and what is trained how: "order" in attune_state.json.
Json order_settings(const RunSetup& setup, const models::Decoder& model);

// Refuses where a setting differs from those in `state`, the attune_state.json of `checkpoint`, naming both values. Says it where
// only the number of threads does.
void check_same_run(const fs::path& checkpoint, const Json& state, const RunSetup& setup, const models::Decoder& model);

}  // namespace attune::train
