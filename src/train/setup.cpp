#include "train/setup.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/adapter.h"
#include "models/families/family.h"
#include "train/data_setup.h"
#include "train/lora_options.h"
#include "train/objective_options.h"
#include "train/optimizer_options.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::train {
namespace {

using data::TokenSet;

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

data::BatchingOptions train_batching(const Config& c) {
  data::BatchingOptions batching;
  batching.micro_batch_size = c.per_device_train_batch_size;
  batching.micro_batches = c.gradient_accumulation_steps;
  batching.packing = c.packing;
  batching.cutoff_len = c.cutoff_len;
  batching.group_size = data::group_size_of(c.row_kind());
  batching.probes = c.row_kind() == data::RowKind::judged;
  batching.group_by_length = c.group_by_length;
  batching.drop_last = c.dataloader_drop_last;
  batching.shuffle = !c.disable_shuffling;
  batching.seed = static_cast<uint64_t>(c.data_seed.value_or(c.seed));
  return batching;
}

data::BatchingOptions eval_batching(const Config& c) {
  data::BatchingOptions batching;
  batching.micro_batch_size = c.per_device_eval_batch_size;
  batching.group_size = data::group_size_of(c.row_kind());
  batching.probes = c.row_kind() == data::RowKind::judged;
  batching.shuffle = false;
  return batching;
}

// Without data: `batch` groups (packs) of sequences of cutoff_len tokens, all but the first of them labels.
BatchCapacity worst_case(const Config& c, int64_t batch, bool packing) {
  const int64_t sequences = batch * sequences_of_group(c), tokens = sequences * c.cutoff_len;
  if (!packing) return {tokens, sequences, tokens - sequences, c.cutoff_len};
  return {tokens, std::max<int64_t>(1, tokens / 2), tokens, c.cutoff_len};
}

// With a shorter cutoff_len than the tokens were cut to.
BatchCapacity cut_to(BatchCapacity most, const Config& c, int64_t batch, bool packing) {
  const BatchCapacity limit = worst_case(c, batch, packing);
  return {std::min(most.tokens, limit.tokens), std::min(most.sequences, limit.sequences), std::min(most.label_rows, limit.label_rows),
          std::min(most.max_seqlen, limit.max_seqlen)};
}

BatchCapacity eval_capacity(const RunSetup& s, const Config& c) {
  const int64_t batch = c.per_device_eval_batch_size;
  if (s.eval_set) return cut_to(data::Batcher(*s.eval_set, eval_batching(c)).capacity_of(1), c, batch, false);
  const bool wanted = !s.train_set && (c.val_size > 0 || !c.eval_dataset.empty() || c.cross_validation > 0);
  return wanted ? worst_case(c, batch, false) : BatchCapacity{};
}

void plan_saving(RunSetup& s) {
  const Config& c = s.config;
  const DType stored = s.directory->has_weights() ? s.directory->stored_dtype() : s.engine.compute;
  // An adapter is saved as it is trained, as PEFT does: in fp32, whatever the base has.
  const DType own = c.pure_bf16 ? DType::bf16 : s.engine.tuning.adapts() ? DType::f32 : stored;
  s.save_dtype = c.save_dtype == "auto" ? own : parse_dtype(c.save_dtype, "save_dtype");
  s.saved_config = std::make_shared<Json>(s.directory->config());
  if (s.architecture.num_labels > 0)
    *s.saved_config = models::scoring_config(s.directory->config(), s.architecture.num_labels, s.architecture.eos_token_ids.empty() ? -1 : s.architecture.eos_token_ids[0]);
  Json& config = *s.saved_config;
  if (s.architecture.stored_vocab_size > 0) config["vocab_size"] = s.architecture.vocab_size;
  const bool said = config.contains("dtype") || config.contains("torch_dtype");
  for (const char* key : {"dtype", "torch_dtype"})  // newer and older transformers; some files have both
    if (config.contains(key) ? s.save_dtype != stored : !said && std::string_view(key) == "torch_dtype") config[key] = name_of(s.save_dtype);
}

}  // namespace

int64_t sequences_of_group(const Config& c) { return c.row_kind() == data::RowKind::pair ? 2 : 1; }

BatchCapacity capacity_with(const RunSetup& s, const Config& c) {
  const int64_t batch = c.per_device_train_batch_size;
  if (!s.train_set || s.stream) return worst_case(c, batch, c.packing);
  data::BatchingOptions batching = train_batching(c);
  batching.cutoff_len = s.config.cutoff_len;
  return cut_to(data::Batcher(*s.train_set, batching).capacity_of(static_cast<int64_t>(s.epoch_ends.size())), c, batch, c.packing);
}

EngineOptions engine_options(const RunSetup& setup, const Config& c) {
  EngineOptions e;
  e.backend = &ops::choose_backend(c.device);
  e.compute = c.compute();
  e.masters = c.bf16 || c.fp16;
  if (c.pure_bf16) e.masters = false;
  e.loss_scaling = c.fp16;
  e.tuning = {c.finetuning_type, c.freeze_trainable_layers, c.freeze_trainable_modules, c.freeze_extra_modules, c.unfrozen_parameters, {}, c.quantization()};
  if (e.tuning.adapts()) e.tuning.lora = lora_options(c);
  e.lr_groups = lr_groups(c);
  if (c.use_badam) {
    if (c.finetuning_type != "full")
      refuse("use_badam: chooses itself what learns; it goes with finetuning_type: full, not {}", c.finetuning_type);
    e.rotation = {c.badam_switch_mode, c.badam_start_block, c.badam_switch_interval, static_cast<uint64_t>(c.seed)};
  }
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
  for (const std::string& adapter : config.adapter_name_or_path)
    if (fs::equivalent(output, adapter, error))
      refuse("output_dir: {} is the adapter that training begins with; the result would overwrite it. Choose another directory", output.string());
  const bool model = fs::exists(output / "model.safetensors") || fs::exists(output / "model.safetensors.index.json") || formats::is_adapter(output);
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
  const data::ReadOptions options{config.row_kind(), config.max_samples, static_cast<uint64_t>(config.seed)};
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

std::unique_ptr<data::TokenSet> held_out_set(const Config& c, const std::string& tokenizer) {
  if (!c.eval_dataset.empty()) {
    RunSetup s;
    s.config = c;
    s.vocabulary.directory = tokenizer;
    s.tokenizer = text::Tokenizer::load(tokenizer);
    auto set = std::make_unique<TokenSet>(read_set(s, c.eval_dataset));
    for (const std::string& line : s.report.summary()) warn("{}", line);
    if (set->size() == 0) refuse("eval_dataset: no sample is left: {}", fmt::join(s.report.summary(), "; "));
    return set;
  }
  if (c.val_size <= 0) refuse("nothing is held out: set eval_dataset or val_size, or name files with --file");
  return std::move(prepare(c).eval_set);
}

namespace {

models::DecoderConfig architecture_of(const formats::ModelDirectory& directory, const Config& config) {
  models::DecoderConfig a = models::parse_config(directory.config(), (directory.path() / "config.json").string());
  if (scores_sequences(config)) models::score_sequences(a, 1);
  else if (a.num_labels > 0)
    refuse("model_name_or_path: {} scores sequences (a reward model or classifier) and cannot be tuned as a language model. stage: rm continues it",
           directory.path().string());
  if (config.finetuning_type == "lora" && tuning::unties(lora_options(config), a)) models::untie(a);
  return a;
}

}  // namespace

RunSetup prepare(const Config& config, const Fold& fold) {
  // Evaluation alone does without.
  if (config.dataset.empty()) refuse("dataset is missing: a data file (path, or a name below dataset_dir)");
  RunSetup s;
  s.config = config;
  s.directory = std::make_unique<formats::ModelDirectory>(config.model_name_or_path);
  s.architecture = architecture_of(*s.directory, config);
  protect_output(config);
  s.vocabulary = make_vocabulary(config, *s.directory, s.architecture, s.tokenizer);
  if (!s.tokenizer) s.tokenizer = text::Tokenizer::load(s.directory->path());  // refuses, saying what is missing
  prepare_data(s, fold);
  arrange(s, config);
  return s;
}

RunSetup prepare_without_data(const Config& config) {
  RunSetup s;
  s.directory = std::make_unique<formats::ModelDirectory>(config.model_name_or_path);
  s.architecture = architecture_of(*s.directory, config);
  if (!config.add_tokens.empty() || !config.add_special_tokens.empty() || !config.adapter_name_or_path.empty())
    s.vocabulary = make_vocabulary(config, *s.directory, s.architecture, s.tokenizer);
  arrange(s, config);
  return s;
}

namespace {

void arrange_batches(RunSetup& s) {
  s.train_batches = std::make_unique<data::Batcher>(*s.train_set, train_batching(s.config));
  if (s.eval_set) s.eval_batches = std::make_unique<data::Batcher>(*s.eval_set, eval_batching(s.config));
  if (s.stream) s.epoch_ends = {s.total_steps};
  else count_steps(s);
}

// A stream is known by its first window alone.
std::string describe_stream(const RunSetup& s) {
  return fmt::format("data: a stream of {} files, {}; windows of up to {} rows (the first of {}) or {} tokens. The first has {} samples of {} tokens "
                     "({} labelled), longest {}", s.data_files.size(), format_bytes(s.stream->stream().bytes()), s.stream->buffer_size(),
                     std::min(s.stream->buffer_size(), StreamFeed::kFirstRows), StreamFeed::kMostTokens, s.train_set->groups(), s.train_set->total_tokens(),
                     s.train_set->labelled_tokens(), s.train_set->longest());
}

}  // namespace

void arrange(RunSetup& s, const Config& config) {
  s.config = config;
  s.epoch_ends.clear();
  s.total_steps = std::max<int64_t>(0, config.max_steps);
  if (s.train_set) arrange_batches(s);
  s.objective = make_objective(config);
  s.engine = engine_options(s, config);
  plan_saving(s);
}

std::vector<std::string> describe_data(const RunSetup& s) {
  std::vector<std::string> lines;
  constexpr const char* kSamples[] = {"samples", "samples", "pairs", "judged answers"};
  const char* samples = kSamples[static_cast<size_t>(s.config.row_kind())];
  if (s.stream) lines.push_back(describe_stream(s));
  else lines.push_back(fmt::format("data: {} rows read, {} training {} of {} tokens ({} labelled), longest {}", s.rows_read, s.train_set->groups(), samples,
                              s.train_set->total_tokens(), s.train_set->labelled_tokens(), s.train_set->longest()));
  if (s.train_set->sources().size() > 1) lines.push_back("data sets: " + fmt::format("{}", fmt::join(data::count_by_source(*s.train_set), ", ")));
  if (s.eval_set) lines.push_back(fmt::format("validation: {} {} of {} tokens", s.eval_set->groups(), samples, s.eval_set->total_tokens()));
  if (s.config.packing) {
    const auto packs = s.train_batches->steps_in_epoch(0);
    lines.push_back(fmt::format("packing: sequences of up to {} tokens, {} updates in the first {}; attention and positions keep samples apart",
                                s.config.cutoff_len, packs, s.stream ? "window" : "epoch"));
  }
  for (const std::string& line : s.report.summary()) lines.push_back(line);
  return lines;
}

}  // namespace attune::train
