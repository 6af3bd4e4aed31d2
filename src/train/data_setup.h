// The data of a run: read, tokenised or taken from the cache, what is held out split off, the rest mixed.
#pragma once

#include "train/setup.h"

namespace attune::train {

// Reads and tokenises data sets by their names; what is reported goes to the setup.
data::TokenSet read_set(RunSetup& setup, const std::vector<std::string>& names);
// Refuses ids for which the model has no row.
void check_ids(const data::TokenSet& set, int64_t vocab, const std::string& model);
// Makes `train_set` and `eval_set` as the configuration says.
void prepare_data(RunSetup& setup, const Fold& fold);

}  // namespace attune::train
