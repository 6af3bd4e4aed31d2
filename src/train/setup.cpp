#include "train/setup.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/families/family.h"
#include "util/error.h"
#include "util/log.h"
#include "util/rng.h"

namespace attune::train {
namespace {

using data::TokenSet;

TokenSet read_set(RunSetup& setup, const std::vector<std::string>& names) {
  const data::Records records = read_data_sets(setup.config, names, setup.report);
  setup.data_files.insert(setup.data_files.end(), records.files.begin(), records.files.end());
  setup.rows_read += records.rows_read;
  bool conversations = false;
  for (const auto& r : records.rows) conversations |= r.is_conversation();
  if (conversations && !setup.chat) setup.chat = text::ChatTemplate::create(setup.config.chat_template, *setup.tokenizer, setup.config.tool_format);
  return data::tokenize(records, *setup.tokenizer, setup.chat.get(),
                        {setup.config.cutoff_len, setup.config.train_on_prompt, setup.config.pretraining(), setup.config.mask_history}, setup.report);
}

// Holds val_size samples out, or those of one fold, chosen by the seed.
void split(RunSetup& setup, TokenSet all, const Fold& fold) {
  if (all.size() == 0)
    refuse("dataset: no sample is left to train on: {}", fmt::join(setup.report.summary(), "; "));
  const double val = setup.config.val_size;
  if (val > 1 && val != std::floor(val)) refuse("val_size: {} is neither a share below 1 nor a whole number of samples", val);
  auto count = static_cast<int64_t>(val < 1 ? std::llround(val * static_cast<double>(all.size())) : val);
  if (val > 0) count = std::max<int64_t>(1, count);
  int64_t first = 0;
  if (fold.count > 0) {
    if (all.size() < fold.count) refuse("cross_validation: {} folds need as many samples, there are {}", fold.count, all.size());
    first = all.size() * fold.index / fold.count;
    count = all.size() * (fold.index + 1) / fold.count - first;
  }
  if (count >= all.size())
    refuse("val_size: {} samples would be held out of {}; nothing would be left to train on", count, all.size());
  if (count == 0) {
    setup.train_set = std::make_unique<TokenSet>(std::move(all));
    return;
  }
  const data::Permutation order(all.size(), mix_key(static_cast<uint64_t>(setup.config.seed), 0x5EED), 0);
  std::set<int64_t> held;
  for (int64_t i = 0; i < count; ++i) held.insert(order[first + i]);
  setup.train_set = std::make_unique<TokenSet>();
  setup.eval_set = std::make_unique<TokenSet>();
  setup.train_set->sources = setup.eval_set->sources = all.sources;
  for (int64_t i = 0; i < all.size(); ++i)
    (held.count(i) ? *setup.eval_set : *setup.train_set).add(all.ids(i), all.weights(i), all.where(i), all.source(i));
}

// What is held out must not come back through repetition: first split, then mix.
void mix_sets(RunSetup& setup, const data::MixOptions& mixing) {
  const TokenSet& set = *setup.train_set;
  std::vector<bool> found(set.sources.size(), false);
  for (int64_t i = 0; i < set.size(); ++i) found[static_cast<size_t>(set.source(i))] = true;
  for (size_t s = 0; s < found.size(); ++s)
    if (!found[s] && !mixing.is_plain())
      refuse("dataset: no sample of \"{}\" is left to mix: {}", set.sources[s], fmt::join(setup.report.summary(), "; "));
  data::mix(*setup.train_set, mixing);
}

void check_ids(const TokenSet& set, int64_t vocab, const std::string& model) {
  for (int64_t i = 0; i < set.size(); ++i)
    for (int32_t id : set.ids(i))
      if (id < 0 || id >= vocab)
        refuse("{}: the tokenizer gives id {} but the model has only {} embedding rows. Tokenizer and model do not belong "
               "together ({})", model, id, vocab, set.where(i));
}

// The end of each epoch is known before the run; nobody means more passes than this.
constexpr size_t kMostEpochs = 100'000;

void count_steps(RunSetup& setup) {
  const Config& c = setup.config;
  const double epochs = c.max_steps > 0 ? 1e18 : c.num_train_epochs;
  int64_t done = 0;
  for (int64_t e = 0; static_cast<double>(e) < epochs; ++e) {
    const int64_t steps = setup.train_batches->steps_in_epoch(e);
    if (steps == 0)
      refuse("dataloader_drop_last: the data does not fill one micro-batch of per_device_train_batch_size ({}); nothing would be trained",
             c.per_device_train_batch_size);
    const double share = std::min(1.0, epochs - static_cast<double>(e));
    done += share < 1 ? static_cast<int64_t>(std::ceil(share * static_cast<double>(steps))) : steps;
    if (c.max_steps > 0) done = std::min(done, c.max_steps);
    setup.epoch_ends.push_back(done);
    if (setup.epoch_ends.size() > kMostEpochs)
      refuse("{}: the run would go through the data more than {} times", c.max_steps > 0 ? "max_steps" : "num_train_epochs", kMostEpochs);
    if (c.max_steps > 0 && done == c.max_steps) break;
  }
  setup.total_steps = done;
}

double number_of(const std::string& value, const std::string& what) {
  double x = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
  if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(x)) refuse("{} must be a number, not \"{}\"", what, value);
  return x;
}

// "1.0e-6" is a rate, "0.1x" a multiple of learning_rate.
std::vector<optim::LrGroup> lr_groups(const Config& c) {
  std::vector<optim::LrGroup> groups;
  for (const auto& [pattern, value] : c.learning_rate_groups) {
    const std::string what = fmt::format("learning_rate_groups: the rate of \"{}\"", pattern);
    const bool multiple = value.ends_with("x");
    const double x = number_of(multiple ? value.substr(0, value.size() - 1) : value, what);
    if (x < 0) refuse("{} is below 0", what);
    if (!multiple && c.learning_rate == 0) refuse("{}: learning_rate is 0; give a rate above 0 there", what);
    groups.push_back({pattern, multiple ? x : x / c.learning_rate});
  }
  return groups;
}

optim::OptimizerOptions optimizer_options(const Config& c) {
  optim::OptimizerOptions o;
  o.name = c.optim.starts_with("adamw") ? "adamw" : c.optim.starts_with("lion") ? "lion" : c.optim;
  o.beta1 = static_cast<float>(c.adam_beta1);
  o.beta2 = static_cast<float>(c.adam_beta2);
  o.eps = static_cast<float>(c.adam_epsilon);
  o.weight_decay = static_cast<float>(c.weight_decay);
  o.anchor_decay = static_cast<float>(c.l2_to_base);
  o.state_dtype = c.pure_bf16 ? DType::bf16 : DType::f32;
  o.seed = static_cast<uint64_t>(c.seed);
  for (const auto& [name, value] : c.optim_args) {
    const bool adam = o.name == "adam" || o.name == "adamw", factored = o.name == "adafactor";
    const auto flag = [&, &name = name, &value = value] {
      if (value != "true" && value != "True" && value != "false" && value != "False")
        refuse("optim_args: {} must be true or false, not \"{}\"", name, value);
      return value == "true" || value == "True";
    };
    const auto real = [&, &name = name, &value = value](double low, double high) {
      const double x = number_of(value, "optim_args: " + name);
      if (x < low || x > high) refuse("optim_args: {} is {}; expected {} to {}", name, value, low, high);
      return static_cast<float>(x);
    };
    if (adam && name == "amsgrad") o.amsgrad = flag();
    else if (o.name == "sgd" && name == "momentum") o.momentum = real(0, 0.9999);
    else if (o.name == "sgd" && name == "nesterov") o.nesterov = flag();
    else if (factored && name == "scale_parameter") o.scale_parameter = flag();
    else if (factored && name == "clip_threshold") o.clip_threshold = real(1e-6, 1e6);
    else if (factored && name == "decay_rate") o.decay_rate = real(-10, 0);
    else refuse("optim_args: {} knows no \"{}\"; known are amsgrad (adam, adamw), momentum and nesterov (sgd), scale_parameter, "
                "clip_threshold and decay_rate (adafactor)", c.optim, name);
  }
  return o;
}

// What a sequence can hold where there is no data: cutoff_len tokens, all but the first of them labels.
struct Longest {
  int64_t tokens, labels;
};
Longest longest_of(const data::Batcher* batches, const Config& c) {
  if (!batches) return {c.cutoff_len, c.cutoff_len - 1};
  const BatchCapacity& most = batches->capacity();
  const int64_t labels = batches->options().packing ? most.max_seqlen - 1 : most.label_rows / batches->options().micro_batch_size;
  return {std::min(most.max_seqlen, c.cutoff_len), std::min(labels, c.cutoff_len - 1)};
}

BatchCapacity eval_capacity(const RunSetup& s, const Config& c) {
  const bool wanted = s.train_set ? s.eval_set != nullptr : c.val_size > 0 || !c.eval_dataset.empty() || c.cross_validation > 0;
  if (!wanted) return {};
  const auto [tokens, labels] = longest_of(s.eval_batches.get(), c);
  const int64_t b = c.per_device_eval_batch_size;
  return {b * tokens, b, b * labels, tokens};
}

void plan_saving(RunSetup& s) {
  const Config& c = s.config;
  const DType stored = s.directory->has_weights() ? s.directory->stored_dtype() : s.engine.compute;
  s.save_dtype = c.save_dtype == "auto" ? (c.pure_bf16 ? DType::bf16 : stored) : parse_dtype(c.save_dtype, "save_dtype");
  s.saved_config = std::make_shared<Json>(s.directory->config());
  Json& config = *s.saved_config;
  const bool said = config.contains("dtype") || config.contains("torch_dtype");
  for (const char* key : {"dtype", "torch_dtype"})  // newer and older transformers; some files have both
    if (config.contains(key) ? s.save_dtype != stored : !said && std::string_view(key) == "torch_dtype") config[key] = name_of(s.save_dtype);
}

}  // namespace

BatchCapacity capacity_with(const RunSetup& s, const Config& c) {
  const auto [tokens, labels] = longest_of(s.train_batches.get(), c);
  const int64_t b = c.per_device_train_batch_size;
  if (!c.packing) return {b * tokens, b, b * labels, tokens};
  const int64_t room = b * std::max(c.cutoff_len, tokens);
  return {room, std::max<int64_t>(1, room / 2), room, tokens};  // a sequence has at least two tokens
}

EngineOptions engine_options(const RunSetup& setup, const Config& c) {
  EngineOptions e;
  e.compute = c.compute();
  e.masters = c.bf16 || c.fp16;
  if (c.pure_bf16) e.masters = false;
  e.loss_scaling = c.fp16;
  e.tuning = {c.finetuning_type, c.freeze_trainable_layers, c.freeze_trainable_modules, c.freeze_extra_modules, c.unfrozen_parameters};
  e.lr_groups = lr_groups(c);
  e.anchor_dtype = setup.directory->has_weights() ? setup.directory->stored_dtype() : e.compute;
  e.recompute = c.recompute();
  e.capacity = capacity_with(setup, c);
  e.eval_capacity = eval_capacity(setup, c);
  e.micro_batches = c.gradient_accumulation_steps;
  e.optimizer_in_backward = c.optimizer_in_backward;
  e.max_grad_norm = static_cast<float>(c.clipping == "off" ? 0 : c.max_grad_norm);
  e.clipping = c.clipping == "per_tensor"                                                    ? Clipping::per_tensor
               : c.clipping == "previous_step" || (c.clipping == "auto" && c.optimizer_in_backward) ? Clipping::previous_step
                                                                                             : Clipping::global;
  e.attention_dropout = static_cast<float>(c.attention_dropout.value_or(setup.architecture.attention_dropout));
  e.hidden_dropout = static_cast<float>(c.hidden_dropout);
  e.embedding_dropout = static_cast<float>(c.embedding_dropout);
  e.neftune_noise_alpha = static_cast<float>(c.neftune_noise_alpha);
  e.seed = static_cast<uint64_t>(c.seed);
  e.optimizer = optimizer_options(c);
  return e;
}

void protect_output(const Config& config) {
  const fs::path output = config.output_dir;
  std::error_code error;
  if (fs::equivalent(output, config.model_name_or_path, error))
    refuse("output_dir: {} is the base model itself; the result would overwrite it. Choose another directory", output.string());
  const fs::path inside = fs::weakly_canonical(config.model_name_or_path, error).lexically_relative(fs::weakly_canonical(output, error));
  if (config.overwrite_output_dir && !inside.empty() && *inside.begin() != "..")
    refuse("output_dir: {} holds the base model ({}) and overwrite_output_dir would clear it. Choose another directory", output.string(),
           config.model_name_or_path);
  if (fs::exists(output) && !fs::is_directory(output)) refuse("output_dir: {} is not a directory", output.string());
  const bool model = fs::exists(output / "model.safetensors") || fs::exists(output / "model.safetensors.index.json");
  if (model && !fs::exists(output / "attune_config.yaml") && !config.overwrite_output_dir)
    refuse("output_dir: {} holds a model that does not come from a run here; it would be overwritten. Choose another directory, "
           "or set overwrite_output_dir: true", output.string());
}

void protect_finished_run(const Config& config) {
  const fs::path output = config.output_dir;
  const bool taken = fs::exists(output / "train_results.json") || fs::exists(output / "trainer_log.jsonl");
  if (taken && config.resume_from_checkpoint.empty() && !config.overwrite_output_dir)
    refuse("output_dir: {} already holds a run. Set overwrite_output_dir: true to start afresh, resume_from_checkpoint: true "
           "to continue it, or choose another directory", output.string());
}

data::Records read_data_sets(const Config& config, const std::vector<std::string>& names, data::DataReport& report) {
  data::Records records;
  const data::ReadOptions options{config.pretraining(), config.max_samples, static_cast<uint64_t>(config.seed)};
  for (const std::string& name : names) data::read_records(data::find_data_set(name, config.dataset_dir), options, records, report);
  return records;
}

RunSetup::Place RunSetup::place_of(int64_t step) const {
  int64_t begin = 0;
  for (size_t e = 0; e < epoch_ends.size(); ++e) {
    if (step < epoch_ends[e])
      return {static_cast<int64_t>(e), step - begin, train_batches->steps_in_epoch(static_cast<int64_t>(e))};
    begin = epoch_ends[e];
  }
  fail("internal error: step {} lies behind the end of the run", step);
}

std::unique_ptr<data::TokenSet> held_out_set(const Config& config, const std::string& model) {
  Config c = config;
  if (!c.eval_dataset.empty()) {
    RunSetup s;
    c.model_name_or_path = model;
    s.config = c;
    s.tokenizer = text::Tokenizer::load(model);
    auto set = std::make_unique<TokenSet>(read_set(s, c.eval_dataset));
    for (const std::string& line : s.report.summary()) warn("{}", line);
    if (set->size() == 0) refuse("eval_dataset: no sample is left: {}", fmt::join(s.report.summary(), "; "));
    return set;
  }
  if (c.val_size <= 0) refuse("nothing is held out: set eval_dataset or val_size, or name files with --file");
  return std::move(prepare(c).eval_set);
}

RunSetup prepare(const Config& config, const Fold& fold) {
  // Evaluation alone does without.
  if (config.dataset.empty()) refuse("dataset is missing: a data file (path, or a name below dataset_dir)");
  RunSetup s;
  s.config = config;
  s.directory = std::make_unique<formats::ModelDirectory>(config.model_name_or_path);
  s.architecture = models::parse_config(s.directory->config(), (s.directory->path() / "config.json").string());
  protect_output(config);
  s.tokenizer = text::Tokenizer::load(s.directory->path());
  const data::MixOptions mixing{config.mix_strategy, config.interleave_probs, config.dataset_weights, static_cast<uint64_t>(config.seed)};
  data::check_mixing(mixing, config.dataset.size());
  split(s, read_set(s, config.dataset), fold);
  mix_sets(s, mixing);
  if (!config.eval_dataset.empty()) {
    s.eval_set = std::make_unique<TokenSet>(read_set(s, config.eval_dataset));
    if (s.eval_set->size() == 0) refuse("eval_dataset: no sample is left: {}", fmt::join(s.report.summary(), "; "));
  }
  check_ids(*s.train_set, s.architecture.vocab_size, config.model_name_or_path);
  if (s.eval_set) check_ids(*s.eval_set, s.architecture.vocab_size, config.model_name_or_path);
  arrange(s, config);
  return s;
}

RunSetup prepare_without_data(const Config& config) {
  RunSetup s;
  s.directory = std::make_unique<formats::ModelDirectory>(config.model_name_or_path);
  s.architecture = models::parse_config(s.directory->config(), (s.directory->path() / "config.json").string());
  arrange(s, config);
  return s;
}

namespace {

void arrange_batches(RunSetup& s) {
  const Config& config = s.config;
  data::BatchingOptions batching;
  batching.micro_batch_size = config.per_device_train_batch_size;
  batching.micro_batches = config.gradient_accumulation_steps;
  batching.packing = config.packing;
  batching.cutoff_len = config.cutoff_len;
  batching.group_by_length = config.group_by_length;
  batching.drop_last = config.dataloader_drop_last;
  batching.seed = static_cast<uint64_t>(config.data_seed.value_or(config.seed));
  s.train_batches = std::make_unique<data::Batcher>(*s.train_set, batching);
  if (s.eval_set) {
    data::BatchingOptions eval;
    eval.micro_batch_size = config.per_device_eval_batch_size;
    eval.shuffle = false;
    s.eval_batches = std::make_unique<data::Batcher>(*s.eval_set, eval);
  }
  count_steps(s);
}

}  // namespace

void arrange(RunSetup& s, const Config& config) {
  s.config = config;
  s.epoch_ends.clear();
  s.total_steps = std::max<int64_t>(0, config.max_steps);
  if (s.train_set) arrange_batches(s);
  s.objective = std::make_unique<objectives::CausalLm>(static_cast<float>(config.label_smoothing_factor));
  s.engine = engine_options(s, config);
  plan_saving(s);
}

std::vector<std::string> describe_data(const RunSetup& s) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("data: {} rows read, {} training samples of {} tokens ({} labelled), longest {}", s.rows_read,
                              s.train_set->size(), s.train_set->total_tokens(), s.train_set->labelled_tokens(), s.train_set->longest()));
  if (s.train_set->sources.size() > 1) lines.push_back("data sets: " + fmt::format("{}", fmt::join(data::count_by_source(*s.train_set), ", ")));
  if (s.eval_set) lines.push_back(fmt::format("validation: {} samples of {} tokens", s.eval_set->size(), s.eval_set->total_tokens()));
  if (s.config.packing) {
    const auto packs = s.train_batches->steps_in_epoch(0);
    lines.push_back(fmt::format("packing: sequences of up to {} tokens, {} updates in the first epoch; attention and positions keep samples apart",
                                s.config.cutoff_len, packs));
  }
  for (const std::string& line : s.report.summary()) lines.push_back(line);
  return lines;
}

}  // namespace attune::train
