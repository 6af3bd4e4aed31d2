// Everything a run needs before its first step, worked out once for `train`, `plan` and `data`.
#pragma once

#include <memory>

#include "data/mixing.h"
#include "data/order.h"
#include "data/readers.h"
#include "formats/model_directory.h"
#include "train/config.h"
#include "train/engine.h"
#include "train/stream_feed.h"
#include "train/vocabulary.h"

namespace attune::train {

struct RunSetup {
  Config config;
  std::unique_ptr<formats::ModelDirectory> directory;
  models::DecoderConfig architecture;
  Vocabulary vocabulary;
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::shared_ptr<text::ChatTemplate> chat;  // null for pre-training
  data::DataReport report;
  std::vector<std::string> data_files;
  int64_t rows_read = 0;
  std::unique_ptr<data::TokenSet> train_set, eval_set;
  std::unique_ptr<StreamFeed> stream;  // streaming: then the training set is a window of it
  std::unique_ptr<data::Batcher> train_batches, eval_batches;  // eval may be null
  std::unique_ptr<objectives::Objective> objective;
  EngineOptions engine;
  DType save_dtype = DType::f32;      // of the result
  std::shared_ptr<Json> saved_config;  // config.json of the result: the base's, but for what changed
  std::vector<int64_t> epoch_ends;  // updates done when each epoch ends; the last entry is total_steps
  int64_t total_steps = 0;

  struct Place {
    int64_t epoch, index, steps_in_epoch;
  };
  Place place_of(int64_t step) const;  // step from 0
};

// One part of cross-validation: of `count` parts of the data number `index` (from 0) is held out.
struct Fold {
  int64_t count = 0, index = 0;
};

// Reads model configuration, tokenizer and data; checks that they belong together.
RunSetup prepare(const Config& config, const Fold& fold = {});
// The same from config.json alone, for plans: sequences of cutoff_len tokens, all labelled. There are no token sets, and
// updates only where max_steps says how many.
RunSetup prepare_without_data(const Config& config);
// Lays the run out anew for other settings over the same tokens: batches, updates, the engine.
void arrange(RunSetup& setup, const Config& config);

// Sequences of a group that are learnt: a pair has two, everything else one.
int64_t sequences_of_group(const Config& config);
// The largest micro-batch of training under other settings. With a smaller cutoff_len the tokens would be cut anew: then at most this.
BatchCapacity capacity_with(const RunSetup& setup, const Config& config);
// What the engine is told under other settings over the same tokens.
EngineOptions engine_options(const RunSetup& setup, const Config& config);

// What is in output_dir must not be lost: refuses the base model itself and a model that no run of ours left ...
void protect_output(const Config& config);
// ... and an earlier run, where neither overwrite_output_dir nor resume_from_checkpoint says what to do with it.
void protect_finished_run(const Config& config);

// What a configuration holds out, as its training sees it: `eval_dataset`, or the samples that `val_size` chose. The
// tokenizer is that of the directory `tokenizer` (of a model, or of an adapter that brings its own). Refuses where nothing is held out.
std::unique_ptr<data::TokenSet> held_out_set(const Config& config, const std::string& tokenizer);

// What the data looks like, one line each, for the log.
std::vector<std::string> describe_data(const RunSetup& setup);

// Reads data sets by their names in the configuration.
data::Records read_data_sets(const Config& config, const std::vector<std::string>& names, data::DataReport& report);

}  // namespace attune::train
