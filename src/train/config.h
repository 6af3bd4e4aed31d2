// The configuration of a run: Hugging Face's and LLaMA-Factory's names, one schema that parses, checks and documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/row_kind.h"
#include "nn/tape.h"

namespace attune::train {

struct Config {
  // model
  std::string model_name_or_path;
  std::vector<std::string> adapter_name_or_path;
  // method
  std::string stage = "sft";
  std::string stage_loss;  // not a key: of `stage: orpo` and its like, which mean dpo with this pref_loss
  std::string finetuning_type = "full";
  bool do_train = true;
  int64_t freeze_trainable_layers = 2;
  std::vector<std::string> freeze_trainable_modules{"all"}, freeze_extra_modules, unfrozen_parameters;
  bool create_new_adapter = false;
  std::vector<std::string> add_tokens, add_special_tokens;
  bool resize_vocab = false;
  std::string init_special_tokens = "mean";
  int64_t lora_rank = 8;
  std::optional<double> lora_alpha;  // 2·rank
  double lora_dropout = 0;
  std::vector<std::string> lora_target{"all"}, additional_target;
  std::vector<int64_t> layers_to_transform;
  std::string bias = "none";
  bool use_rslora = false, use_dora = false;
  bool pissa_init = false, pissa_convert = true;
  int64_t pissa_iter = 16;
  bool use_tensor_train = false, tt_weighted = false;
  int64_t tt_bond = 4;
  std::string init_lora_weights = "true";
  double loraplus_lr_ratio = 0, loraplus_lr_embedding = 1e-6;
  int64_t quantization_bit = 0;  // 0: off
  std::string quantization_type = "nf4", quantization_method = "bnb";
  bool double_quantization = true, load_in_4bit = false, load_in_8bit = false, qlora = false;
  // preferences
  std::vector<std::string> pref_loss{"sigmoid"};
  std::vector<double> pref_loss_weights;
  double pref_beta = 0.1, pref_ftx = 0, dpo_label_smoothing = 0, simpo_gamma = 0.5, ld_alpha = 1, discopop_tau = 0.05, cpo_alpha = 1;
  double kto_chosen_weight = 1, kto_rejected_weight = 1, center_rewards_coefficient = 0;
  std::string ref_model, kto_loss = "kto";
  // data
  std::vector<std::string> dataset, eval_dataset;
  std::string dataset_dir = "data";
  std::string chat_template;  // key `template`
  std::string tool_format;
  int64_t cutoff_len = 2048;
  bool packing = false;
  bool train_on_prompt = false;
  bool mask_history = false;
  int64_t max_samples = 0;
  std::string tokenized_path;
  bool token_cache = true, overwrite_cache = false;
  std::string mix_strategy = "concat";
  std::vector<double> interleave_probs, dataset_weights;
  double val_size = 0;
  bool streaming = false;
  int64_t buffer_size = 16384;
  // prediction
  bool predict_with_generate = true;
  int64_t max_new_tokens = 1024;
  // training
  std::string output_dir = "output";
  bool overwrite_output_dir = false;
  int64_t per_device_train_batch_size = 8;
  bool auto_batch = false;  // per_device_train_batch_size: auto, until it is settled
  bool auto_fit = false;
  int64_t per_device_eval_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  double learning_rate = 5e-5;
  std::string lr_scheduler_type = "linear";
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  Pairs lr_scheduler_kwargs, learning_rate_groups, rank_pattern, alpha_pattern;
  double warmup_ratio = 0;
  double warmup_steps = 0;  // below 1: a ratio
  double num_train_epochs = 3;
  int64_t max_steps = -1;
  bool bf16 = false, pure_bf16 = false, fp16 = false;
  std::string save_dtype = "auto";
  std::string gradient_checkpointing = "light";
  std::string optim = "adamw_torch";
  Pairs optim_args;
  bool use_badam = false;
  std::string badam_mode = "layer", badam_switch_mode = "ascending";
  std::optional<int64_t> badam_start_block;
  int64_t badam_switch_interval = 50;
  std::vector<std::string> optim_target_modules;
  bool use_galore = false, galore_layerwise = false;
  std::vector<std::string> galore_target{"all"};
  int64_t galore_rank = 16, galore_update_interval = 200;
  double galore_scale = 2.0;
  std::string galore_proj_type = "std";
  bool use_apollo = false, apollo_layerwise = false, apollo_scale_front = false;
  std::vector<std::string> apollo_target{"all"};
  int64_t apollo_rank = 16, apollo_update_interval = 200;
  double apollo_scale = 32.0;
  std::string apollo_proj = "random", apollo_proj_type = "std", apollo_scale_type = "channel";
  bool use_muon = false;
  bool optimizer_in_backward = false;
  std::string clipping = "auto";
  double weight_decay = 0, l2_to_base = 0;
  double label_smoothing_factor = 0, neftune_noise_alpha = 0;
  std::optional<double> attention_dropout;  // config.json's where not set
  double hidden_dropout = 0, embedding_dropout = 0;
  bool use_dft_loss = false;
  bool group_by_length = false, dataloader_drop_last = false, disable_shuffling = false;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  std::string device = "auto";
  int64_t seed = 42;
  std::optional<int64_t> data_seed;
  // log, evaluate, save
  int64_t logging_steps = 10;
  bool logging_first_step = false;
  std::string eval_strategy = "auto";
  int64_t eval_steps = 0;
  bool eval_on_start = false;
  int64_t early_stopping_patience = 0;
  double early_stopping_threshold = 0;
  bool load_best_model_at_end = false;
  std::string metric_for_best_model = "loss";
  std::optional<bool> greater_is_better;
  int64_t num_generation_samples = 0, generation_max_new_tokens = 64;
  int64_t cross_validation = 0;
  std::string cross_validation_model = "final";
  std::string save_strategy = "steps";
  int64_t save_steps = 500;
  int64_t save_total_limit = 0;
  bool save_only_model = false;
  std::string resume_from_checkpoint;  // "", "true" or a directory

  // Not a key: false where only the figures of a run are wanted.
  bool keep_model = true;

  // What was set by the user, with where it was set; for messages and the resolved configuration.
  struct Setting {
    std::string key, value, where;
  };
  std::vector<Setting> settings;

  nn::Recompute recompute() const;
  DType compute() const { return bf16 || pure_bf16 ? DType::bf16 : fp16 ? DType::f16 : DType::f32; }
  // How the base's layers are held below an adapter.
  Quantization quantization() const;
  // Whether a larger metric_for_best_model is better.
  bool larger_is_better() const;
  bool pretraining() const { return stage == "pt"; }
  // What the stage reads.
  data::RowKind row_kind() const;
  // Schedules' warm-up for a run of `total` updates.
  int64_t warmup(int64_t total) const;
  // All keys with their values, as YAML.
  std::string resolved_yaml() const;
};

// Reads a YAML file (may be empty) and applies `key=value` overrides. Unknown, duplicate and mistyped keys are refused
// with file, line and the nearest known key. Keys that cannot matter here are accepted with one notice.
// `needs_data`: whether a configuration without data sets is refused.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_data = true);
// The same where the file may be a pipeline: keys above `stages` hold for every stage, a stage's own keys come before them,
// those of the command line before both. Each stage has its directory below output_dir (1-pt, 2-sft …) and begins with the
// result of the one before it (of an adapter: merged). Without `stages`: one configuration.
std::vector<Config> load_stages(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_data = true);
// What a run recorded as attune_config.yaml: no checks, no notices.
Config read_resolved(const std::filesystem::path& file);

// The reference of all keys as Markdown (docs/configuration.md is this text).
std::string config_reference();

// Up to `most` candidates within an edit distance that a typing error would make.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace attune::train
