// What a run writes down while it goes: trainer_state.json, trainer_log.jsonl, TensorBoard events, the loss curve.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "objectives/results.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::train {

// Scalars for TensorBoard: events.out.tfevents.* in TFRecord framing. A resumed run opens a new file.
class EventWriter {
 public:
  explicit EventWriter(const fs::path& directory);
  ~EventWriter();
  void scalar(const std::string& tag, int64_t step, float value);

 private:
  void record(const std::string& event);
  struct File;
  std::unique_ptr<File> file_;
};

// The course of a run in Hugging Face's schema. Held in memory, saved with each checkpoint and at the end.
class RunLog {
 public:
  RunLog(const fs::path& output_dir, int64_t total_steps, bool resumed);
  ~RunLog();

  struct TrainEntry {
    int64_t step;
    double epoch, loss, grad_norm, learning_rate, token_accuracy /* NaN: there is none */, tokens_per_second, elapsed, remaining;
    int64_t total_tokens;
    const objectives::Measures* measures = nullptr;
  };
  void train(const TrainEntry& entry);
  void evaluation(int64_t step, double epoch, const Json& metrics, double elapsed, double remaining, int64_t total_tokens);
  void finish(int64_t step, double epoch, const Json& metrics);

  const Json& history() const;
  // Restores the history of a checkpoint; later lines of trainer_log.jsonl are dropped.
  void restore(const Json& history, int64_t step);
  void write_curve() const;

 private:
  void line(const Json& json);
  fs::path directory_;
  int64_t total_steps_;
  std::unique_ptr<Json> history_;
  std::unique_ptr<EventWriter> events_;
};

// trainer_state.json as transformers writes and reads it: no key more, no key less.
struct TrainerState {
  int64_t global_step = 0, max_steps = 0, logging_steps = 0, eval_steps = 0, save_steps = 0, train_batch_size = 0;
  int64_t num_input_tokens_seen = 0;
  double epoch = 0, num_train_epochs = 0, total_flos = 0;
  int64_t best_step = 0;  // 0: none
  double best_metric = 0;
  std::string best_checkpoint;
};
std::string trainer_state_json(const TrainerState& state, const Json& history);

// An SVG of training loss (raw and smoothed) and evaluation loss over steps.
std::string loss_curve_svg(const Json& history);

}  // namespace attune::train
