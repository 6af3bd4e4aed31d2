// checkpoint-N/: model, optimizer state and position of a run. Published as a whole; a broken one is never picked up.
//
//   model.safetensors …, config.json, tokenizer files   usable as a model directory; of an adapter only its own files
//   optimizer.safetensors     <HF name>.exp_avg, .exp_avg_sq, and .weight_fp32 where the model file is narrower
//   trainer_state.json        Hugging Face's schema
//   attune_state.json         position, settings that fix the order of data, log window
//   attune_checkpoint.json    size and XXH3-64 of every file; written last
#pragma once

#include <functional>
#include <optional>

#include "formats/model_directory.h"
#include "train/engine.h"
#include "util/json.h"

namespace attune::train {

struct CheckpointContent {
  const models::Decoder* model = nullptr;
  const optim::Optimizer* optimizer = nullptr;  // null with save_only_model
  DType save_dtype = DType::f32;
  std::function<void(const fs::path&)> save_model;  // writes the model's (adapter's) files
  std::string trainer_state;
  std::string state;  // attune_state.json
};

void write_checkpoint(const fs::path& output_dir, int64_t step, const CheckpointContent& content);

// The newest checkpoint in `output_dir` whose files are all intact; what is skipped is said in a warning.
std::optional<fs::path> newest_checkpoint(const fs::path& output_dir);
// Empty where the checkpoint is intact, otherwise what is wrong.
std::string verify_checkpoint(const fs::path& checkpoint);

Json read_checkpoint_state(const fs::path& checkpoint);
// Fills what was trained from the files of a checkpoint or result: the model, or the adapter of a model that is in memory.
void load_tuned(const fs::path& directory, models::Decoder& model);
// Fills weights, masters and optimizer states.
void load_checkpoint(const fs::path& checkpoint, models::Decoder& model, optim::Optimizer& optimizer);

// Deletes one checkpoint, or all of them.
void remove_checkpoint(const fs::path& output_dir, int64_t step);
void remove_checkpoints(const fs::path& output_dir);

// Deletes the oldest beyond `limit` (0: none), but never that of `best_step`; and what killed runs left half-written.
void prune_checkpoints(const fs::path& output_dir, int64_t limit, int64_t best_step);

}  // namespace attune::train
