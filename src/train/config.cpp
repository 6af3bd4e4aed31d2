#include "train/config.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "train/config_schema.h"
#include "train/idle_settings.h"
#include "train/lora_options.h"
#include "train/objective_options.h"
#include "train/optimizer_options.h"
#include "util/error.h"
#include "util/files.h"
#include "util/log.h"

namespace attune::train {
namespace {

bool is_off(const Given& g) {
  if (g.values.empty()) return true;
  static const std::set<std::string> off{"false", "False", "FALSE", "no", "off", "0", "0.0", "none", "None", "null", "~", ""};
  return !g.is_list && off.count(g.values[0]) > 0;
}

YAML::Node parse_yaml(const std::filesystem::path& file) {
  try {
    return YAML::Load(read_file(file, 16 << 20));
  } catch (const YAML::Exception& e) {
    refuse("{}:{}: not valid YAML: {}", file.string(), e.mark.line + 1, e.msg);
  }
}

Given value_of(const YAML::Node& node, Given g) {
  if (node.IsNull()) {
    // The default: nothing to set, but the key must be a known one.
  } else if (node.IsScalar()) {
    g.values = {node.Scalar()};
  } else if (node.IsSequence()) {
    g.is_list = true;
    for (const auto& item : node) {
      if (!item.IsScalar()) refuse("{}: {}: a list here holds plain values", g.where, g.key);
      g.values.push_back(item.Scalar());
    }
  } else {
    g.is_map = true;
    for (const auto& item : node) {
      if (!item.first.IsScalar() || !item.second.IsScalar()) refuse("{}: {}: a map here holds plain values", g.where, g.key);
      for (const auto& [name, value] : g.pairs)
        if (name == item.first.Scalar()) refuse("{}: {}: \"{}\" stands twice", g.where, g.key, name);
      g.pairs.emplace_back(item.first.Scalar(), item.second.Scalar());
    }
  }
  return g;
}

// The keys of a map, each once; `stages` are left to the caller.
std::vector<Given> keys_of(const YAML::Node& map, const std::string& file) {
  std::vector<Given> out;
  std::map<std::string, std::string> seen;
  for (const auto& pair : map) {
    if (!pair.first.IsScalar()) refuse("{}:{}: a key must be plain text", file, pair.first.Mark().line + 1);
    Given g;
    g.key = pair.first.Scalar();
    g.where = fmt::format("{}:{}", file, pair.first.Mark().line + 1);
    if (const auto [it, fresh] = seen.emplace(g.key, g.where); !fresh)
      refuse("{}: duplicate key {}; it was first set at {}", g.where, g.key, it->second);
    if (g.key != "stages") out.push_back(value_of(pair.second, std::move(g)));
  }
  return out;
}

// A configuration file: keys, and in a pipeline those of each stage.
struct Document {
  std::vector<Given> keys;
  std::vector<std::vector<Given>> stages;
};

Document read_document(const std::filesystem::path& file) {
  const YAML::Node root = parse_yaml(file);
  if (root.IsNull()) return {};
  if (!root.IsMap()) refuse("{}: must hold keys and values (key: value)", file.string());
  Document d{keys_of(root, file.string()), {}};
  const YAML::Node stages = root["stages"];
  if (!stages) return d;
  const auto where = [&](const YAML::Node& n) { return fmt::format("{}:{}", file.string(), n.Mark().line + 1); };
  if (!stages.IsSequence() || stages.size() == 0) refuse("{}: stages: must be a list, one entry (keys and values) a stage", where(stages));
  for (const auto& stage : stages) {
    if (!stage.IsMap()) refuse("{}: stages: each entry holds keys and values (stage: sft, dataset: …)", where(stage));
    if (stage["stages"]) refuse("{}: stages: a stage cannot be a pipeline itself", where(stage));
    d.stages.push_back(keys_of(stage, file.string()));
  }
  return d;
}

void apply(Config& config, const Given& g, std::vector<std::string>& ignored) {
  const Key* key = find_key(g.key);
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
    for (const Key& k : schema_keys()) known.push_back(k.name);
    refuse("{}: unknown key \"{}\"{} (`attune train --help-config` lists all keys)", g.where, g.key, nearest(g.key, known));
  }
  if (g.values.empty() && !g.is_list && !g.is_map) return;
  key->set(config, g);
  config.settings.push_back({key->name, g.is_map ? pairs_text(g.pairs) : fmt::format("{}", fmt::join(g.values, ",")), g.where});
}

// What a stream cannot know, or would do at the end of every window.
void check_streaming(const Config& c) {
  if (!c.streaming) return;
  const auto without = [](bool wanted, const char* key, const char* why) {
    if (wanted) refuse("streaming does not go with {}: {}", key, why);
  };
  if (c.row_kind() != data::RowKind::text && c.row_kind() != data::RowKind::conversation)
    refuse("streaming is for stages pt and sft; stage {} reads {}, which are gone through as a whole before training", c.stage, data::description_of(c.row_kind()));
  if (c.max_steps < 1) refuse("streaming needs max_steps: how long a stream is is not known before it is read, and so not when the learning rate should end");
  without(c.cross_validation > 0, "cross_validation", "it parts the data beforehand");
  without(c.val_size > 0 && c.val_size < 1, "a share in val_size", "how long a stream is is not known. Give a number of rows, or eval_dataset");
  without(!c.dataset_weights.empty(), "dataset_weights", "how many rows a data set has is not known; mix by interleave_probs");
  without(c.eval_strategy == "epoch", "eval_strategy: epoch", "set eval_steps");
  without(c.save_strategy == "epoch", "save_strategy: epoch", "set save_steps");
  const bool once = c.eval_strategy == "auto" && c.eval_steps == 0;
  for (const auto& [wanted, key] : {std::pair{c.early_stopping_patience > 0, "early_stopping_patience"}, {c.load_best_model_at_end, "load_best_model_at_end"}, {c.save_strategy == "best", "save_strategy: best"}})
    without(once && wanted, key, "it has no epochs, so that the only evaluation would be the last one. Set eval_steps");
  without(c.dataloader_drop_last, "dataloader_drop_last", "rows would be left out at the end of each window");
  without(!c.tokenized_path.empty(), "tokenized_path", "a stream is not kept");
  const auto per = std::find_if(c.lr_scheduler_kwargs.begin(), c.lr_scheduler_kwargs.end(), [](const auto& p) { return p.first == "per"; });
  without(c.lr_scheduler_type == "step" && (per == c.lr_scheduler_kwargs.end() || per->second == "epoch"), "lr_scheduler_type: step by epochs", "set per=step in lr_scheduler_kwargs");
}

void check(const Config& c, bool needs_data) {
  if (c.model_name_or_path.empty()) refuse("model_name_or_path is missing: the directory of the base model");
  if (needs_data && c.dataset.empty() && c.eval_dataset.empty()) refuse("dataset is missing: a data file (path, or a name below dataset_dir)");
  if (!c.do_train) refuse("do_train is false: `attune train` has nothing to do");
  if (c.mask_history && c.train_on_prompt) refuse("mask_history and train_on_prompt exclude each other: one learns only the last answer, the other everything");
  if (c.val_size > 0 && !c.eval_dataset.empty()) refuse("val_size and eval_dataset exclude each other: choose one source of validation data");
  if (c.max_steps < 1 && c.num_train_epochs <= 0) refuse("num_train_epochs is 0 and max_steps is not set: nothing would be trained");
  if (c.output_dir.empty()) refuse("output_dir is empty");
  check_optimizer(c);
  check_lora(c);
  check_objective(c);
  check_streaming(c);
  if (!c.layers_to_transform.empty() && c.lora_target.size() == 1 && is_pattern(c.lora_target[0]))
    refuse("layers_to_transform does not go with a regular expression in lora_target, which can say the layers itself");
  // LLaMA-Factory's files say bf16 beside pure_bf16.
  if (c.fp16 && (c.bf16 || c.pure_bf16)) refuse("fp16 and bf16 exclude each other: choose one precision");
  if (c.group_by_length && c.packing) refuse("group_by_length does nothing for packing, which fills every sequence: choose one of them");
  if (c.group_by_length && c.disable_shuffling) refuse("group_by_length sorts rows by length, disable_shuffling keeps their order: choose one of them");
  if (c.use_dft_loss && c.label_smoothing_factor > 0)
    refuse("use_dft_loss and label_smoothing_factor: each changes what a token's loss is, and they are not defined together; choose one of them");
  const bool validation = c.val_size > 0 || !c.eval_dataset.empty() || c.cross_validation > 0;
  const auto needs_validation = [&](bool wanted, const char* key) {
    if (wanted && !validation) refuse("{} needs validation data: set val_size, eval_dataset or cross_validation", key);
    if (wanted && c.eval_strategy == "no") refuse("{} needs evaluations, but eval_strategy is no", key);
  };
  needs_validation(c.early_stopping_patience > 0, "early_stopping_patience");
  needs_validation(c.load_best_model_at_end, "load_best_model_at_end");
  needs_validation(c.save_strategy == "best", "save_strategy: best");
  needs_validation(c.num_generation_samples > 0, "num_generation_samples");
  if (c.num_generation_samples > 0 && c.stage == "rm") refuse("num_generation_samples: a reward model scores answers and writes none; leave it out in stage rm");
  if (c.cross_validation == 1) refuse("cross_validation: 1 fold leaves nothing to train on; 5 is usual");
  if (c.cross_validation > 0 && c.eval_strategy == "no") refuse("cross_validation needs evaluations, but eval_strategy is no");
  if (const std::string& r = c.resume_from_checkpoint; c.cross_validation > 0 && !r.empty() && r != "true" && r != "True")
    refuse("resume_from_checkpoint: {} belongs to one run, and cross_validation makes several; with true each continues from its own", r);
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

Quantization Config::quantization() const {
  const int64_t bits = quantization_bit > 0 ? quantization_bit : load_in_8bit ? 8 : load_in_4bit || qlora ? 4 : 0;
  if (bits == 8) return {QuantType::int8, false};
  if (bits == 4) return {quantization_type == "fp4" ? QuantType::fp4 : QuantType::nf4, double_quantization};
  return {};
}

bool Config::larger_is_better() const {
  const auto says = [this](const char* word) { return metric_for_best_model.find(word) != std::string::npos; };
  return greater_is_better.value_or(says("accurac") || says("margin"));
}

data::RowKind Config::row_kind() const {
  using Kind = data::RowKind;
  return stage == "pt" ? Kind::text : stage == "rm" || stage == "dpo" ? Kind::pair : stage == "kto" ? Kind::judged : Kind::conversation;
}

nn::Recompute Config::recompute() const {
  if (gradient_checkpointing == "block") return nn::Recompute::block;
  return gradient_checkpointing == "none" ? nn::Recompute::none : nn::Recompute::light;
}

int64_t Config::warmup(int64_t total) const {
  if (warmup_steps >= 1) return static_cast<int64_t>(warmup_steps);
  const double ratio = warmup_steps > 0 ? warmup_steps : warmup_ratio;
  return static_cast<int64_t>(std::ceil(ratio * static_cast<double>(total)));
}

std::string Config::resolved_yaml() const {
  std::string out = "# The configuration as the run used it: every key, defaults included.\n", section;
  for (const Key& k : schema_keys()) {
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

Config read_resolved(const std::filesystem::path& file) {
  Config config;
  std::vector<std::string> ignored;
  for (const Given& g : read_document(file).keys) apply(config, g, ignored);
  return config;
}

namespace {

std::vector<Given> from_command_line(const std::vector<std::string>& overrides) {
  std::vector<Given> out;
  for (const std::string& item : overrides) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) refuse("\"{}\": expected key=value after the configuration file", item);
    Given g;
    g.key = item.substr(0, equals);
    g.where = "command line";
    g.values = {item.substr(equals + 1)};
    out.push_back(std::move(g));
  }
  return out;
}

// stage: orpo is stage: dpo with that loss. A pref_loss of another one beside it is meant for another stage, or a mistake.
void take_stage_loss(Config& c, const std::set<std::string>& own) {
  if (c.stage_loss.empty()) return;
  if (own.count("pref_loss") && c.pref_loss != std::vector<std::string>{c.stage_loss})
    refuse("stage: {} is stage dpo with pref_loss: {}, but pref_loss says {}. Leave one of them out", c.stage_loss, c.stage_loss, fmt::join(c.pref_loss, ","));
  c.pref_loss = {c.stage_loss};
  if (!own.count("pref_loss_weights")) c.pref_loss_weights.clear();
}

// Keys that are another way to say what a second one says: which of the two is written first decides nothing.
void take_other_names(Config& c, const std::map<std::string, Given>& given) {
  const auto find = [&](const char* key) {
    const auto it = given.find(key);
    return it == given.end() || it->second.values.empty() ? nullptr : &it->second;
  };
  if (const Given *use_cpu = find("use_cpu"), *device = find("device"); use_cpu && device && boolean(*use_cpu)) {
    if (device->scalar() == "cuda")
      refuse("{}: use_cpu: true and device: cuda ({}) contradict each other. Leave one of them out: device: cpu computes on the processor, device: cuda on the GPU",
             use_cpu->where, device->where);
    c.device = "cpu";
  }
  if (const Given *neat = find("neat_packing"), *packing = find("packing"); neat && packing && boolean(*neat) && !boolean(*packing))
    refuse("{}: neat_packing: true and packing: false ({}) contradict each other: they are two names of one setting. Leave one of them out", neat->where, packing->where);
}

// Layers of keys, later ones before earlier ones. What the first `shared` layers set may be meant for other stages: it is
// not said to be idle.
Config assemble(const std::vector<std::vector<Given>>& layers, size_t shared, bool needs_data) {
  std::map<std::string, Given> merged;
  std::vector<std::string> order;
  std::set<std::string> own;
  for (size_t l = 0; l < layers.size(); ++l) {
    std::set<std::string> given;
    for (const Given& g : layers[l]) {
      const Key* key = find_key(g.key);
      const std::string name = key ? key->name : g.key;
      if (!given.insert(name).second) refuse("{}: duplicate key {}{}", g.where, g.key, g.key == name ? "" : " (another name of " + name + ")");
      if (!merged.count(name)) order.push_back(name);
      merged[name] = g;
      if (l >= shared) own.insert(name);
    }
  }
  Config config;
  std::vector<std::string> ignored;
  for (const std::string& name : order) apply(config, merged.at(name), ignored);
  if (!ignored.empty()) notice("these keys do not matter here and are ignored: {}", fmt::join(ignored, ", "));
  if (!merged.count("finetuning_type")) notice("finetuning_type is not set: full, every parameter is trained");
  if (implies_update_in_backward(config)) config.optimizer_in_backward = true;
  take_stage_loss(config, own);
  take_other_names(config, merged);
  check(config, needs_data);
  if (const auto idle = idle_settings(config, own); !idle.empty()) notice("these keys have no effect beside the other settings: {}", fmt::join(idle, ", "));
  return config;
}

bool sets(const std::vector<Given>& keys, const std::string& name) {
  return std::any_of(keys.begin(), keys.end(), [&](const Given& g) { return g.key == name; });
}

// Where a stage of a pipeline stands, and what it begins with: the result of the last stage before it that leaves a
// language model.
void place_stages(std::vector<Config>& stages, const std::vector<std::vector<Given>>& own) {
  const std::filesystem::path output = stages[0].output_dir;
  const Config* before = nullptr;
  for (size_t i = 0; i < stages.size(); ++i) {
    Config& c = stages[i];
    if (sets(own[i], "output_dir")) refuse("stages: output_dir belongs to the pipeline as a whole; each stage has a directory of its own in it");
    if (c.cross_validation > 0) refuse("stages: cross_validation makes several models; a pipeline goes on with one");
    if (!c.resume_from_checkpoint.empty() && c.resume_from_checkpoint != "true" && c.resume_from_checkpoint != "True")
      refuse("resume_from_checkpoint: {} belongs to one stage; with true the pipeline continues where it was", c.resume_from_checkpoint);
    c.output_dir = (output / fmt::format("{}-{}", i + 1, c.stage_loss.empty() ? c.stage : c.stage_loss)).string();
    const bool goes_on = before && !sets(own[i], "model_name_or_path");
    if (goes_on)
      c.model_name_or_path = before->finetuning_type == "lora" ? (std::filesystem::path(before->output_dir) / "merged").string() : before->output_dir;
    // Adapters that are named for all stages are part of that result already.
    if (goes_on && !sets(own[i], "adapter_name_or_path")) c.adapter_name_or_path.clear(), c.create_new_adapter = false;
    // What a stage has brought is told by the loss before it.
    const bool validated = (c.val_size > 0 || !c.eval_dataset.empty()) && c.eval_strategy != "no";
    if (validated && std::none_of(c.settings.begin(), c.settings.end(), [](const auto& s) { return s.key == "eval_on_start"; })) c.eval_on_start = true;
    if (c.stage != "rm") before = &c;
  }
}

}  // namespace

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_data) {
  const Document d = file.empty() ? Document{} : read_document(file);
  if (!d.stages.empty()) refuse("{}: holds a pipeline (stages:), which only `attune train` and `attune plan` take", file.string());
  return assemble({d.keys, from_command_line(overrides)}, 0, needs_data);
}

std::vector<Config> load_stages(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_data) {
  const Document d = file.empty() ? Document{} : read_document(file);
  if (d.stages.empty()) return {load_config(file, overrides, needs_data)};
  std::vector<Config> stages;
  for (const auto& own : d.stages) stages.push_back(assemble({d.keys, own, from_command_line(overrides)}, 1, needs_data));
  place_stages(stages, d.stages);
  return stages;
}

std::string config_reference() {
  const Config defaults;
  std::string out, section;
  for (const Key& k : schema_keys()) {
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