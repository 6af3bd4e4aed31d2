// The configuration of a run: Hugging Face's and LLaMA-Factory's names, one schema that parses, checks and documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nn/tape.h"

namespace attune::train {

struct Config {
  // model
  std::string model_name_or_path;
  // method
  std::string stage = "sft";
  std::string finetuning_type = "full";
  bool do_train = true;
  // data
  std::vector<std::string> dataset, eval_dataset;
  std::string dataset_dir = "data";
  std::string chat_template;  // key `template`
  int64_t cutoff_len = 2048;
  bool packing = false;
  bool train_on_prompt = false;
  bool mask_history = false;
  int64_t max_samples = 0;
  std::string mix_strategy = "concat";
  std::vector<double> interleave_probs, dataset_weights;
  double val_size = 0;
  // prediction
  bool predict_with_generate = true;
  int64_t max_new_tokens = 1024;
  // training
  std::string output_dir = "output";
  bool overwrite_output_dir = false;
  int64_t per_device_train_batch_size = 8;
  int64_t per_device_eval_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  double learning_rate = 5e-5;
  std::string lr_scheduler_type = "linear";
  double warmup_ratio = 0;
  double warmup_steps = 0;  // below 1: a ratio
  double num_train_epochs = 3;
  int64_t max_steps = -1;
  bool bf16 = false;
  std::string gradient_checkpointing = "none";
  std::string optim = "adamw_torch";
  double weight_decay = 0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  int64_t seed = 42;
  std::optional<int64_t> data_seed;
  // log, evaluate, save
  int64_t logging_steps = 10;
  bool logging_first_step = false;
  std::string eval_strategy = "auto";
  int64_t eval_steps = 0;
  std::string save_strategy = "steps";
  int64_t save_steps = 500;
  int64_t save_total_limit = 0;
  bool save_only_model = false;
  std::string resume_from_checkpoint;  // "", "true" or a directory

  // What was set by the user, with where it was set; for messages and the resolved configuration.
  struct Setting {
    std::string key, value, where;
  };
  std::vector<Setting> settings;

  nn::Recompute recompute() const;
  DType compute() const { return bf16 ? DType::bf16 : DType::f32; }
  bool pretraining() const { return stage == "pt"; }
  // Schedules' warm-up for a run of `total` updates.
  int64_t warmup(int64_t total) const;
  // All keys with their values, as YAML.
  std::string resolved_yaml() const;
};

// Reads a YAML file (may be empty) and applies `key=value` overrides. Unknown, duplicate and mistyped keys are refused
// with file, line and the nearest known key. Keys that cannot matter here are accepted with one notice.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides);

// The reference of all keys as Markdown (docs/configuration.md is this text).
std::string config_reference();

// Up to `most` candidates within an edit distance that a typing error would make.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace attune::train
