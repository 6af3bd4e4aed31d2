#include "train/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "optim/schedule.h"
#include "util/error.h"
#include "util/files.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::train {
namespace {

// One value as written, and where.
struct Given {
  std::string key, where;
  std::vector<std::string> values;  // one, or a list
  Config::Pairs pairs;              // a map
  bool is_list = false, is_map = false;
  const std::string& scalar() const {
    if (is_list || is_map || values.size() != 1) refuse("{}: {} must be a single value, not a {}", where, key, is_map ? "map" : "list");
    return values[0];
  }
};

bool boolean(const Given& g) {
  const std::string& v = g.scalar();
  for (const char* yes : {"true", "True", "TRUE", "yes", "on"})
    if (v == yes) return true;
  for (const char* no : {"false", "False", "FALSE", "no", "off"})
    if (v == no) return false;
  refuse("{}: {} must be true or false, not \"{}\"", g.where, g.key, v);
}

double number(const Given& g, double low, double high) {
  const std::string& v = g.scalar();
  double x = 0;
  const auto [end, error] = std::from_chars(v.data(), v.data() + v.size(), x);
  if (error != std::errc() || end != v.data() + v.size())
    refuse("{}: {} must be a number, not \"{}\"", g.where, g.key, v);
  if (!(x >= low && x <= high)) refuse("{}: {} is {}; expected {} to {}", g.where, g.key, v, low, high);
  return x;
}

int64_t whole(const Given& g, int64_t low, int64_t high) {
  const double x = number(g, static_cast<double>(low), static_cast<double>(high));
  if (x != static_cast<double>(static_cast<int64_t>(x))) refuse("{}: {} must be a whole number, not \"{}\"", g.where, g.key, g.scalar());
  return static_cast<int64_t>(x);
}

std::string choice(const Given& g, const std::vector<std::string>& known) {
  const std::string& v = g.scalar();
  if (std::find(known.begin(), known.end(), v) == known.end())
    refuse("{}: {} \"{}\" is not supported; known are {}{}", g.where, g.key, v, fmt::join(known, ", "), nearest(v, known));
  return v;
}

std::vector<std::string> names(const Given& g) {
  std::vector<std::string> out;
  for (const std::string& v : g.values) {
    size_t at = 0;
    while (at <= v.size()) {
      size_t comma = v.find(',', at);
      if (comma == std::string::npos) comma = v.size();
      std::string item = v.substr(at, comma - at);
      item.erase(0, item.find_first_not_of(' '));
      item.erase(item.find_last_not_of(' ') + 1);
      if (!item.empty()) out.push_back(item);
      at = comma + 1;
    }
  }
  return out;
}

// A map in YAML, a JSON object as text, or "a=1,b=2".
Config::Pairs pairs(const Given& g) {
  if (g.is_map) return g.pairs;
  Config::Pairs out;
  if (g.values.size() == 1 && g.values[0].starts_with("{")) {
    const Json object = parse_json(g.values[0], g.where + ": " + g.key);
    if (!object.is_object()) refuse("{}: {} must be a map", g.where, g.key);
    for (const auto& [key, value] : object.items()) out.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
    return out;
  }
  for (const std::string& item : names(g)) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) refuse("{}: {}: \"{}\" must be name=value (or write a map)", g.where, g.key, item);
    const auto trimmed = [](std::string s) {
      s.erase(0, s.find_first_not_of(' '));
      return s.erase(s.find_last_not_of(' ') + 1);
    };
    out.emplace_back(trimmed(item.substr(0, equals)), trimmed(item.substr(equals + 1)));
  }
  return out;
}

struct Key {
  std::string name, section, type, doc;
  std::function<void(Config&, const Given&)> set;
  std::function<std::string(const Config&)> get;
  std::vector<std::string> aliases;
};

std::string text(double x) { return fmt::format("{}", x); }
std::string text(int64_t x) { return std::to_string(x); }
std::string text(bool x) { return x ? "true" : "false"; }
std::string text(const std::string& x) { return x; }
std::string text(const std::vector<std::string>& x) { return fmt::format("{}", fmt::join(x, ",")); }
std::string text(const Config::Pairs& x) {
  Json object = Json::object();
  for (const auto& [key, value] : x) object[key] = value;
  return x.empty() ? "" : object.dump();
}
std::string text(const std::vector<double>& x) { return fmt::format("{}", fmt::join(x, ",")); }

class Schema {
 public:
  Schema() {
    section("Model");
    string("model_name_or_path", &Config::model_name_or_path, "Directory of the base model (Hugging Face layout). Required.");
    section("Method");
    choices("stage", &Config::stage, {"sft", "pt"}, "`sft` supervised fine-tuning, `pt` continued pre-training.");
    choices("finetuning_type", &Config::finetuning_type, {"full", "freeze"}, "What is trained. `full`: every parameter (LLaMA-Factory's default is `lora`). `freeze`: some layers or modules; the rest keeps the base's values and costs no gradient and no optimizer memory.");
    integer("freeze_trainable_layers", &Config::freeze_trainable_layers, -(1 << 20), 1 << 20, "`freeze`: train the last n layers (n > 0) or the first n (-n).");
    list("freeze_trainable_modules", &Config::freeze_trainable_modules, "`freeze`: modules trained in those layers, by name (`mlp`, `self_attn`, `q_proj` …); `all`: every one.");
    list("freeze_extra_modules", &Config::freeze_extra_modules, "`freeze`: modules outside of the layers that are trained too (`embed_tokens`, `norm`, `lm_head`).");
    list("unfrozen_parameters", &Config::unfrozen_parameters, "`freeze`: regular expressions over parameter names; where given, exactly what they find is trained and the three keys above do not count.");
    flag("do_train", &Config::do_train, "Must stay true: `attune train` trains.");
    section("Data");
    list("dataset", &Config::dataset, "Data sets: names in `dataset_info.json`, paths of files or directories, or names below `dataset_dir`; `name#500` takes 500 rows, chosen by `seed`. Several with commas or as a list. Required.");
    list("eval_dataset", &Config::eval_dataset, "Validation data sets, instead of `val_size`.");
    string("dataset_dir", &Config::dataset_dir, "Where names in `dataset` are looked up, and where `dataset_info.json` is.");
    choices("mix_strategy", &Config::mix_strategy, {"concat", "interleave_under", "interleave_over", "interleave_once"}, "How several data sets form an epoch. `concat`: all samples; `interleave_…`: in turns until the first is at its end (`under`), until all have been (`over`, repeating), or each sample once (`once`).");
    numbers("interleave_probs", &Config::interleave_probs, "With `interleave_…`: how likely each data set's turn is; empty: strictly in turns.");
    numbers("dataset_weights", &Config::dataset_weights, "With `concat`: how many times an epoch goes through each data set, e.g. `2,0.5`; empty: once each.");
    string("template", &Config::chat_template, "Chat template: `alpaca`, `chatml`, `qwen`, `llama3`, `default`; empty: the model's own.");
    integer("cutoff_len", &Config::cutoff_len, 2, 1 << 24, "Longest sequence in tokens. What is cut is reported with file and line; the token that closes a kept answer is never cut.");
    flag("packing", &Config::packing, "Put several samples into one sequence of `cutoff_len` tokens. Attention and positions keep them apart.");
    add({"neat_packing", "", "true or false", "The same as `packing`, under LLaMA-Factory's name for packing that keeps samples apart.",
         [](Config& c, const Given& g) { c.packing = boolean(g) || c.packing; },
         [](const Config& c) { return text(c.packing); }, {}});
    flag("train_on_prompt", &Config::train_on_prompt, "Learn the questions too, not only the answers.");
    flag("mask_history", &Config::mask_history, "Learn only the last answer of a conversation. One that is too long loses its first turns, not its last.");
    integer("max_samples", &Config::max_samples, 0, int64_t{1} << 40, "Read at most this many rows of each data set; 0: all.");
    real("val_size", &Config::val_size, 0, 1e12, "Validation share (below 1) or number of samples held out of `dataset`.");
    section("Prediction");
    flag("predict_with_generate", &Config::predict_with_generate, "`attune eval` generates answers to the held-out questions and scores them (TrainingArguments has false). Training itself does not.");
    integer("max_new_tokens", &Config::max_new_tokens, 1, 1 << 24, "Longest answer that `attune eval` generates.");
    section("Training");
    string("output_dir", &Config::output_dir, "Where the result goes.");
    flag("overwrite_output_dir", &Config::overwrite_output_dir, "Start afresh in an `output_dir` that already holds a result.");
    integer("per_device_train_batch_size", &Config::per_device_train_batch_size, 1, 1 << 20, "Samples (packs with `packing`) in a micro-batch.");
    integer("per_device_eval_batch_size", &Config::per_device_eval_batch_size, 1, 1 << 20, "The same for evaluation.");
    integer("gradient_accumulation_steps", &Config::gradient_accumulation_steps, 1, 1 << 20, "Micro-batches in an update. The loss is normalised over all of them together.");
    real("learning_rate", &Config::learning_rate, 0, 1e3, "Peak learning rate.");
    maps("learning_rate_groups", &Config::learning_rate_groups, "Other rates for some parameters: a map from regular expression over names to a rate (`1.0e-6`) or a multiple (`0.1x`); the first that is found in a name decides.");
    choices("lr_scheduler_type", &Config::lr_scheduler_type, optim::Schedule::names(), "Course of the learning rate after warm-up. `step` is StepLR.", {}, {{"cosine_with_min_lr_schedule_with_warmup", "cosine_with_min_lr"}, {"wsd", "warmup_stable_decay"}, {"steplr", "step"}, {"StepLR", "step"}});
    maps("lr_scheduler_kwargs", &Config::lr_scheduler_kwargs, "Arguments of the schedule. `cosine`: num_cycles; `cosine_with_restarts`: num_cycles; `cosine_with_min_lr`: min_lr or min_lr_rate; `polynomial`: lr_end, power; `inverse_sqrt`: timescale; `warmup_stable_decay`: num_decay_steps, num_stable_steps, min_lr_ratio, warmup_type, decay_type; `step`: step_size, gamma, per (`epoch` or `step`).");
    real("warmup_ratio", &Config::warmup_ratio, 0, 1, "Warm-up as a share of all updates.");
    real("warmup_steps", &Config::warmup_steps, 0, 1e12, "Warm-up in updates (wins over `warmup_ratio`); below 1: a share.");
    real("num_train_epochs", &Config::num_train_epochs, 0, 1e9, "Passes over the data.");
    integer("max_steps", &Config::max_steps, -1, int64_t{1} << 40, "Updates; wins over `num_train_epochs` when positive.");
    flag("bf16", &Config::bf16, "bf16 weights and matrix work with fp32 masters, moments and sums (16 bytes a parameter, 18 when accumulating). Without: fp32 throughout.");
    flag("pure_bf16", &Config::pure_bf16, "bf16 weights, gradients and moments without masters (8 bytes a parameter); weights and moments are rounded stochastically, so that small updates are not lost.");
    flag("fp16", &Config::fp16, "fp16 weights and matrix work with fp32 masters and moments and a dynamic loss scale. An update whose gradients overflow is skipped and counted. bf16 needs none of that.");
    choices("save_dtype", &Config::save_dtype, {"auto", "float32", "bfloat16", "float16"}, "Numbers in the saved model. `auto`: as the base has them (bfloat16 with `pure_bf16`).", {}, {{"fp32", "float32"}, {"bf16", "bfloat16"}, {"fp16", "float16"}});
    checkpointing();
    choices("optim", &Config::optim, {"adamw_torch", "adamw", "adamw_torch_fused", "adamw_hf", "adam", "sgd", "lion", "lion_32bit", "adafactor"}, "AdamW (all its names mean the same here), Adam (weight decay goes into the gradient), SGD, Lion, Adafactor (as transformers': no momentum, a given rate).");
    maps("optim_args", &Config::optim_args, "More of the optimizer: `amsgrad=true` (adam, adamw), `momentum=0.9`, `nesterov=true` (sgd), `scale_parameter=true`, `clip_threshold`, `decay_rate` (adafactor).");
    real("weight_decay", &Config::weight_decay, 0, 1e3, "Weight decay; norms and biases are left out. Decoupled, but for adam and sgd, as in PyTorch.");
    real("l2_to_base", &Config::l2_to_base, 0, 1e3, "Like weight_decay, but towards the base model's weights instead of zero (L2-SP), for every trained parameter: a guard against forgetting. Costs a copy of the base in memory.");
    real("label_smoothing_factor", &Config::label_smoothing_factor, 0, 0.999, "Spread this share of the target over all words. The training loss is the smoothed one; evaluation stays plain.");
    real("neftune_noise_alpha", &Config::neftune_noise_alpha, 0, 1e3, "NEFTune: noise of alpha/√(length·hidden_size) on the embeddings, in training only (5 is usual).", {"neft_alpha"});
    add({"attention_dropout", "", "number", "Dropout of attention weights; default: the model's config.json.",
         [](Config& c, const Given& g) { c.attention_dropout = number(g, 0, 0.999); },
         [](const Config& c) { return c.attention_dropout ? text(*c.attention_dropout) : ""; }, {}});
    real("hidden_dropout", &Config::hidden_dropout, 0, 0.999, "Dropout of what attention and MLP add to the residual stream.");
    real("embedding_dropout", &Config::embedding_dropout, 0, 0.999, "Dropout of the embeddings.");
    real("adam_beta1", &Config::adam_beta1, 0, 1, "Decay of the first moment.");
    real("adam_beta2", &Config::adam_beta2, 0, 1, "Decay of the second moment.");
    real("adam_epsilon", &Config::adam_epsilon, 0, 1, "Added to the denominator.");
    real("max_grad_norm", &Config::max_grad_norm, 0, 1e12, "Clip gradients to this global norm; 0: off.");
    flag("group_by_length", &Config::group_by_length, "Samples of similar length share a micro-batch (no use with `packing`).");
    flag("dataloader_drop_last", &Config::dataloader_drop_last, "Leave out an epoch's last update when it is not full.");
    integer("seed", &Config::seed, 0, int64_t{1} << 53, "Everything random is a function of it.");
    add({"data_seed", "", "integer", "Seed of the data order alone; default: `seed`.",
         [](Config& c, const Given& g) { c.data_seed = whole(g, 0, int64_t{1} << 53); },
         [](const Config& c) { return text(c.data_seed.value_or(c.seed)); }, {}});
    section("Logs, evaluation, checkpoints");
    integer("logging_steps", &Config::logging_steps, 1, int64_t{1} << 40, "Updates between log lines (TrainingArguments has 500).");
    flag("logging_first_step", &Config::logging_first_step, "Also log the first update.");
    choices("eval_strategy", &Config::eval_strategy, {"auto", "no", "steps", "epoch"}, "When to evaluate. `auto`: at the end of each epoch when there is validation data, or every `eval_steps`.", {"evaluation_strategy"});
    integer("eval_steps", &Config::eval_steps, 0, int64_t{1} << 40, "Updates between evaluations; 0: `logging_steps` with `eval_strategy: steps`.");
    flag("eval_on_start", &Config::eval_on_start, "Evaluate the base model before the first update.");
    integer("early_stopping_patience", &Config::early_stopping_patience, 0, 1 << 20, "Stop after so many evaluations without a better `metric_for_best_model`; 0: never.", {"early_stopping_steps"});
    real("early_stopping_threshold", &Config::early_stopping_threshold, 0, 1e12, "By how much a metric must be better to count.");
    flag("load_best_model_at_end", &Config::load_best_model_at_end, "The result is the best checkpoint, not the last. A checkpoint is written at every evaluation that is the best so far, whatever `save_strategy` says.");
    string("metric_for_best_model", &Config::metric_for_best_model, "What decides: `loss`, `accuracy` (of tokens), `perplexity`, or `<data set>_loss` with several data sets; `eval_` before it may stand or not.");
    add({"greater_is_better", "", "true or false", "Direction of `metric_for_best_model`; default: larger for accuracy, smaller for the others.",
         [](Config& c, const Given& g) { c.greater_is_better = boolean(g); },
         [](const Config& c) { return c.greater_is_better ? text(*c.greater_is_better) : ""; }, {}});
    integer("num_generation_samples", &Config::num_generation_samples, 0, 1000, "At each evaluation, answer the first so many validation prompts and write prompt, answer and expected answer to `generated_samples.jsonl`.");
    integer("generation_max_new_tokens", &Config::generation_max_new_tokens, 1, 1 << 20, "Longest of these answers, in tokens.");
    integer("cross_validation", &Config::cross_validation, 0, 1000, "k: train k times, each time validating on another k-th of the data; `cross_validation.json` has mean and spread. 0: off.");
    choices("cross_validation_model", &Config::cross_validation_model, {"final", "folds", "none"}, "What stays: `final` one model trained on all data after the folds, `folds` the k models in fold-1 …, `none` the figures alone.");
    choices("save_strategy", &Config::save_strategy, {"steps", "epoch", "no", "best"}, "When to write checkpoints; `best`: at evaluations that are the best so far.");
    integer("save_steps", &Config::save_steps, 1, int64_t{1} << 40, "Updates between checkpoints.");
    integer("save_total_limit", &Config::save_total_limit, 0, 1 << 20, "Keep only so many checkpoints, the newest; 0: all. The best one is kept beside them.");
    flag("save_only_model", &Config::save_only_model, "Checkpoints without optimizer state: small, but they do not resume.");
    add({"resume_from_checkpoint", "", "true, false or a directory", "Continue, bit for bit, from the newest intact checkpoint in `output_dir` (true) or from a given one. With true and no checkpoint yet, the run starts from the beginning.",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           c.resume_from_checkpoint = v == "false" || v == "null" || v == "~" ? "" : v;
         },
         [](const Config& c) { return c.resume_from_checkpoint.empty() ? "false" : c.resume_from_checkpoint; }, {}});
  }

  const std::vector<Key>& keys() const { return keys_; }
  const Key* find(const std::string& name) const {
    for (const Key& k : keys_)
      if (k.name == name || std::find(k.aliases.begin(), k.aliases.end(), name) != k.aliases.end()) return &k;
    return nullptr;
  }

 private:
  void section(const std::string& name) { section_ = name; }
  void add(Key key) {
    key.section = section_;
    keys_.push_back(std::move(key));
  }
  template <class T, class F>
  void member(const std::string& name, T Config::*m, const std::string& type, const std::string& doc, F parse,
              std::vector<std::string> aliases = {}) {
    add({name, "", type, doc, [m, parse](Config& c, const Given& g) { c.*m = parse(g); },
         [m](const Config& c) { return text(c.*m); }, std::move(aliases)});
  }
  void string(const std::string& name, std::string Config::*m, const std::string& doc) {
    member(name, m, "text", doc, [](const Given& g) { return g.scalar(); });
  }
  void list(const std::string& name, std::vector<std::string> Config::*m, const std::string& doc) {
    member(name, m, "list", doc, [](const Given& g) { return names(g); });
  }
  void numbers(const std::string& name, std::vector<double> Config::*m, const std::string& doc) {
    member(name, m, "list of numbers", doc, [](const Given& g) {
      std::vector<double> out;
      for (const std::string& item : names(g)) out.push_back(number({g.key, g.where, {item}, {}, false, false}, 0, 1e6));
      return out;
    });
  }
  void flag(const std::string& name, bool Config::*m, const std::string& doc) {
    member(name, m, "true or false", doc, [](const Given& g) { return boolean(g); });
  }
  void integer(const std::string& name, int64_t Config::*m, int64_t low, int64_t high, const std::string& doc,
               std::vector<std::string> aliases = {}) {
    member(name, m, "integer", doc, [low, high](const Given& g) { return whole(g, low, high); }, std::move(aliases));
  }
  void real(const std::string& name, double Config::*m, double low, double high, const std::string& doc,
            std::vector<std::string> aliases = {}) {
    member(name, m, "number", doc, [low, high](const Given& g) { return number(g, low, high); }, std::move(aliases));
  }
  void maps(const std::string& name, Config::Pairs Config::*m, const std::string& doc) {
    member(name, m, "map", doc, [](const Given& g) { return pairs(g); });
  }
  // `other_names`: what a value is called elsewhere → what it is called here.
  void choices(const std::string& name, std::string Config::*m, const std::vector<std::string>& known, const std::string& doc,
               std::vector<std::string> aliases = {}, const std::map<std::string, std::string>& other_names = {}) {
    member(name, m, fmt::format("{}", fmt::join(known, ", ")), doc, [known, other_names](Given g) {
      if (g.values.size() == 1 && other_names.count(g.values[0])) g.values[0] = other_names.at(g.values[0]);
      return choice(g, known);
    }, std::move(aliases));
  }
  void checkpointing() {
    add({"gradient_checkpointing", "", "none, block, true, false",
         "Recompute activations in the backward pass: `block` (true) keeps one vector a token and block, `none` (false) keeps all.",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           if (v == "light") refuse("{}: gradient_checkpointing: light is not available yet; use none or block", g.where);
           c.gradient_checkpointing = v == "none" || v == "block" ? v : boolean(g) ? "block" : "none";
         },
         [](const Config& c) { return c.gradient_checkpointing; }, {}});
  }

  std::string section_;
  std::vector<Key> keys_;
};

const Schema& schema() {
  static const Schema s;
  return s;
}

// Keys of TrainingArguments and LLaMA-Factory that steer Python, the cloud or hardware we do not use: accepted once.
const std::set<std::string>& ignored_keys() {
  static const std::set<std::string> keys{
      "do_eval", "do_predict", "overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout",
      "plot_loss", "report_to", "trust_remote_code", "flash_attn", "use_fast_tokenizer", "cache_dir", "hf_hub_token",
      "run_name", "push_to_hub", "hub_model_id", "logging_dir", "disable_tqdm", "tf32", "torch_compile", "use_cache",
      "include_num_input_tokens_seen", "enable_liger_kernel", "dataloader_pin_memory", "ddp_find_unused_parameters",
      "remove_unused_columns", "print_param_status", "low_cpu_mem_usage", "preprocessing_batch_size", "deepspeed", "fsdp",
      "fsdp_config", "ddp_backend", "dataloader_persistent_workers", "dataloader_prefetch_factor", "hub_token", "hub_strategy",
      "hub_private_repo", "ms_hub_token", "om_hub_token", "use_cpu", "log_on_each_node", "skip_memory_metrics",
      "logging_strategy", "compute_accuracy", "use_unsloth", "model_revision", "log_level", "save_safetensors", "full_determinism"};
  return keys;
}

// Keys of theirs for what is not here yet: accepted only where they switch it off.
const std::set<std::string>& off_keys() {
  static const std::set<std::string> keys{
      "streaming", "use_badam", "use_galore", "use_apollo", "use_muon", "use_dft_loss", "auto_find_batch_size",
      "quantization_bit", "disable_shuffling"};
  return keys;
}

bool is_off(const Given& g) {
  if (g.values.empty()) return true;
  static const std::set<std::string> off{"false", "False", "FALSE", "no", "off", "0", "0.0", "none", "None", "null", "~", ""};
  return !g.is_list && off.count(g.values[0]) > 0;
}

std::vector<Given> read_yaml(const std::filesystem::path& file) {
  std::vector<Given> out;
  YAML::Node root;
  try {
    root = YAML::Load(read_file(file, 16 << 20));
  } catch (const YAML::Exception& e) {
    refuse("{}:{}: not valid YAML: {}", file.string(), e.mark.line + 1, e.msg);
  }
  if (root.IsNull()) return out;
  if (!root.IsMap()) refuse("{}: must hold keys and values (key: value)", file.string());
  std::map<std::string, std::string> seen;
  for (const auto& pair : root) {
    if (!pair.first.IsScalar()) refuse("{}:{}: a key must be plain text", file.string(), pair.first.Mark().line + 1);
    Given g;
    g.key = pair.first.Scalar();
    g.where = fmt::format("{}:{}", file.string(), pair.first.Mark().line + 1);
    if (const auto [it, fresh] = seen.emplace(g.key, g.where); !fresh)
      refuse("{}: duplicate key {}; it was first set at {}", g.where, g.key, it->second);
    if (g.key == "stages") refuse("{}: pipelines (stages:) are not supported yet; run one stage after the other", g.where);
    if (pair.second.IsNull()) {
      // The default: nothing to set, but the key must be a known one.
    } else if (pair.second.IsScalar()) {
      g.values = {pair.second.Scalar()};
    } else if (pair.second.IsSequence()) {
      g.is_list = true;
      for (const auto& item : pair.second) {
        if (!item.IsScalar()) refuse("{}: {}: a list here holds plain values", g.where, g.key);
        g.values.push_back(item.Scalar());
      }
    } else {
      g.is_map = true;
      for (const auto& item : pair.second) {
        if (!item.first.IsScalar() || !item.second.IsScalar()) refuse("{}: {}: a map here holds plain values", g.where, g.key);
        for (const auto& [name, value] : g.pairs)
          if (name == item.first.Scalar()) refuse("{}: {}: \"{}\" stands twice", g.where, g.key, name);
        g.pairs.emplace_back(item.first.Scalar(), item.second.Scalar());
      }
    }
    out.push_back(std::move(g));
  }
  return out;
}

void apply(Config& config, const Given& g, std::vector<std::string>& ignored) {
  const Key* key = schema().find(g.key);
  if (!key) {
    if (ignored_keys().count(g.key)) {
      ignored.push_back(g.key);
      return;
    }
    if (off_keys().count(g.key)) {
      if (!is_off(g)) refuse("{}: {} is not available yet; leave it out", g.where, g.key);
      ignored.push_back(g.key);
      return;
    }
    std::vector<std::string> known(ignored_keys().begin(), ignored_keys().end());
    for (const Key& k : schema().keys()) known.push_back(k.name);
    refuse("{}: unknown key \"{}\"{} (`attune train --help-config` lists all keys)", g.where, g.key, nearest(g.key, known));
  }
  if (g.values.empty() && !g.is_list && !g.is_map) return;
  key->set(config, g);
  config.settings.push_back({key->name, g.is_map ? text(g.pairs) : fmt::format("{}", fmt::join(g.values, ",")), g.where});
}

void check(const Config& c) {
  if (c.model_name_or_path.empty()) refuse("model_name_or_path is missing: the directory of the base model");
  if (c.dataset.empty() && c.eval_dataset.empty()) refuse("dataset is missing: a data file (path, or a name below dataset_dir)");
  if (!c.do_train) refuse("do_train is false: `attune train` has nothing to do");
  if (c.mask_history && c.train_on_prompt) refuse("mask_history and train_on_prompt exclude each other: one learns only the last answer, the other everything");
  if (c.val_size > 0 && !c.eval_dataset.empty()) refuse("val_size and eval_dataset exclude each other: choose one source of validation data");
  if (c.max_steps < 1 && c.num_train_epochs <= 0) refuse("num_train_epochs is 0 and max_steps is not set: nothing would be trained");
  if (c.output_dir.empty()) refuse("output_dir is empty");
  // LLaMA-Factory's files say bf16 beside pure_bf16.
  if (c.fp16 && (c.bf16 || c.pure_bf16)) refuse("fp16 and bf16 exclude each other: choose one precision");
  if (c.group_by_length && c.packing) refuse("group_by_length does nothing for packing, which fills every sequence: choose one of them");
  const bool validation = c.val_size > 0 || !c.eval_dataset.empty() || c.cross_validation > 0;
  const auto needs_validation = [&](bool wanted, const char* key) {
    if (wanted && !validation) refuse("{} needs validation data: set val_size, eval_dataset or cross_validation", key);
    if (wanted && c.eval_strategy == "no") refuse("{} needs evaluations, but eval_strategy is no", key);
  };
  needs_validation(c.early_stopping_patience > 0, "early_stopping_patience");
  needs_validation(c.load_best_model_at_end, "load_best_model_at_end");
  needs_validation(c.save_strategy == "best", "save_strategy: best");
  needs_validation(c.num_generation_samples > 0, "num_generation_samples");
  if (c.cross_validation == 1) refuse("cross_validation: 1 fold leaves nothing to train on; 5 is usual");
  if (c.cross_validation > 0 && (c.val_size > 0 || !c.eval_dataset.empty()))
    refuse("cross_validation holds its own validation data out: leave out val_size and eval_dataset");
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  const auto distance = [](const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= b.size(); ++j) {
        const size_t up = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
        diagonal = up;
      }
    }
    return row[b.size()];
  };
  std::string best;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& c : candidates)
    if (const size_t d = distance(word, c); d < least) least = d, best = c;
  return best.empty() ? "" : fmt::format("; did you mean \"{}\"?", best);
}

bool Config::larger_is_better() const { return greater_is_better.value_or(metric_for_best_model.find("accuracy") != std::string::npos); }

nn::Recompute Config::recompute() const {
  return gradient_checkpointing == "block" ? nn::Recompute::block : nn::Recompute::none;
}

int64_t Config::warmup(int64_t total) const {
  if (warmup_steps >= 1) return static_cast<int64_t>(warmup_steps);
  const double ratio = warmup_steps > 0 ? warmup_steps : warmup_ratio;
  return static_cast<int64_t>(std::ceil(ratio * static_cast<double>(total)));
}

std::string Config::resolved_yaml() const {
  std::string out = "# The configuration as the run used it: every key, defaults included.\n", section;
  for (const Key& k : schema().keys()) {
    if (k.section != section) out += fmt::format("\n# {}\n", section = k.section);
    const std::string value = k.get(*this);
    if (value.empty()) {
      out += k.name + ":\n";
      continue;
    }
    // Quotes only where a reader would take the plain text for something else.
    YAML::Emitter plain, quoted;
    plain << value;
    quoted << YAML::DoubleQuoted << value;
    const YAML::Node back = YAML::Load(plain.c_str());
    out += fmt::format("{}: {}\n", k.name, back.IsScalar() && back.Scalar() == value ? plain.c_str() : quoted.c_str());
  }
  return out;
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  std::map<std::string, Given> merged;
  std::vector<std::string> order;
  std::set<std::string> given;
  const auto put = [&](Given g) {
    const Key* key = schema().find(g.key);
    const std::string name = key ? key->name : g.key;
    if (!given.insert(name).second) refuse("{}: duplicate key {}{}", g.where, g.key, g.key == name ? "" : " (another name of " + name + ")");
    if (!merged.count(name)) order.push_back(name);
    merged[name] = std::move(g);
  };
  if (!file.empty())
    for (Given& g : read_yaml(file)) put(std::move(g));
  given.clear();
  for (const std::string& item : overrides) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0)
      refuse("\"{}\": expected key=value after the configuration file", item);
    Given g;
    g.key = item.substr(0, equals);
    g.where = "command line";
    g.values = {item.substr(equals + 1)};
    put(std::move(g));
  }
  Config config;
  std::vector<std::string> ignored;
  for (const std::string& name : order) apply(config, merged.at(name), ignored);
  if (!ignored.empty()) notice("these keys do not matter here and are ignored: {}", fmt::join(ignored, ", "));
  if (!merged.count("finetuning_type")) notice("finetuning_type is not set: full, every parameter is trained");
  check(config);
  return config;
}

std::string config_reference() {
  const Config defaults;
  std::string out, section;
  for (const Key& k : schema().keys()) {
    if (k.section != section) out += fmt::format("\n## {}\n\n| key | type | default | meaning |\n|---|---|---|---|\n", section = k.section);
    std::string value = k.get(defaults);
    out += fmt::format("| `{}` | {} | {} | {} |\n", k.name, k.type, value.empty() ? "–" : "`" + value + "`", k.doc);
  }
  out += fmt::format("\n## Accepted and ignored\n\nThese keys of TrainingArguments and LLaMA-Factory steer Python, the cloud or other hardware. They are accepted with a notice: {}.\n",
                     fmt::join(ignored_keys(), ", "));
  out += fmt::format("\nThese stand for what is not available yet. They are accepted where they switch it off (false, 0, none): {}.\n",
                     fmt::join(off_keys(), ", "));
  return out;
}

}  // namespace attune::train
