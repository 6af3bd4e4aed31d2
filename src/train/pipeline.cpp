#include "train/pipeline.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/result.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::train {
namespace {

// What decides a stage's result. How it is begun or continued does not.
std::string settings_hash(Config c) {
  c.resume_from_checkpoint.clear();
  c.overwrite_output_dir = false;
  return sha256_hex(c.resolved_yaml());
}

bool finished(const Config& c) { return fs::exists(fs::path(c.output_dir) / "train_results.json"); }

// Validation figures of a finished stage, before its first update and of its result.
void note_figures(const Config& c, Json& entry) {
  const fs::path output = c.output_dir;
  const Json results = read_json(output / "all_results.json");
  entry["updates"] = results.value("steps", int64_t{0});
  entry["seconds"] = results.value("train_runtime", 0.0);
  entry["train_loss"] = results.value("train_loss", 0.0);
  entry["before"] = Json::object();
  entry["after"] = Json::object();
  const auto take = [](const Json& from, Json& to) {
    for (const auto& [key, value] : from.items())
      if (key.starts_with("eval_") && value.is_number() && key.find("runtime") == std::string::npos && key.find("per_second") == std::string::npos) to[key] = value;
  };
  take(results, entry["after"]);
  const Json state = read_json(output / "trainer_state.json");
  for (const Json& row : state.at("log_history"))
    if (row.value("step", int64_t{-1}) == 0 && row.contains("eval_loss")) take(row, entry["before"]);
}

std::string change(const Json& entry, const std::string& key, double factor = 1) {
  if (!entry["after"].contains(key)) return "–";
  const double after = factor * entry["after"][key].get<double>();
  if (!entry["before"].contains(key)) return fmt::format("{:.4g}", after);
  return fmt::format("{:.4g} → {:.4g}", factor * entry["before"][key].get<double>(), after);
}

void print_table(const Json& stages) {
  info("{:<8} {:>8} {:>9}  {:<20} {:<20} {:<18} {}", "stage", "updates", "seconds", "validation loss", "perplexity", "accuracy, %", "margin");
  for (const Json& e : stages) {
    if (e["status"] != "done" || !e.contains("after")) continue;
    const bool pairs = e["after"].contains("eval_rewards/accuracies");
    info("{:<8} {:>8} {:>9.1f}  {:<20} {:<20} {:<18} {}", e["name"].get<std::string>(), e["updates"].get<int64_t>(), e["seconds"].get<double>(), change(e, "eval_loss"),
         change(e, "eval_perplexity"), change(e, pairs ? "eval_rewards/accuracies" : "eval_accuracy", 100), change(e, "eval_rewards/margins"));
  }
}

class Pipeline {
 public:
  Pipeline(const std::vector<Config>& stages, const PipelineHooks& hooks)
      : stages_(stages), hooks_(hooks), output_(fs::path(stages[0].output_dir).parent_path()), file_(output_ / "pipeline.json") {
    begin();
  }
  std::string run();

 private:
  void begin();
  void check_settings() const;
  void run_stage(size_t i);
  void merge_result(size_t i);
  bool merged_is_needed(size_t i) const;
  void save() const { write_file_atomic(file_, state_.dump(2) + "\n"); }

  const std::vector<Config>& stages_;
  const PipelineHooks& hooks_;
  fs::path output_, file_;
  std::unique_ptr<DirectoryLock> lock_;
  Json state_;
};

void Pipeline::begin() {
  fs::create_directories(output_);
  lock_ = std::make_unique<DirectoryLock>(output_, "output_dir");
  const Config& c = stages_[0];
  const bool resume = !c.resume_from_checkpoint.empty();
  if (fs::exists(file_) && !c.overwrite_output_dir && !resume)
    refuse("output_dir: {} already holds a pipeline. Set overwrite_output_dir: true to start afresh, resume_from_checkpoint: true to continue it, or "
           "choose another directory", output_.string());
  if (fs::exists(file_) && resume) {
    state_ = read_json(file_);
    return check_settings();
  }
  for (Config s : stages_) {  // no stage has begun: what is there is older, and not for hours of other stages to find
    s.resume_from_checkpoint.clear();
    protect_finished_run(s);
  }
  state_ = {{"format", 1}, {"stages", Json::array()}};
  for (const Config& s : stages_)
    state_["stages"].push_back({{"name", fs::path(s.output_dir).filename().string()}, {"stage", s.stage}, {"finetuning_type", s.finetuning_type},
                                {"base", s.model_name_or_path}, {"settings_sha256", settings_hash(s)}, {"status", "waiting"}});
  save();  // before anything of an earlier pipeline goes
}

// pipeline.json is a file like any other: somebody may have changed it.
void Pipeline::check_settings() const {
  const auto text = [](const Json& entry, const char* key) { return entry.contains(key) && entry[key].is_string(); };
  const bool list = state_.is_object() && state_.contains("stages") && state_["stages"].is_array();
  const bool whole = list && std::all_of(state_["stages"].begin(), state_["stages"].end(), [&](const Json& entry) {
    return entry.is_object() && text(entry, "name") && text(entry, "status") && text(entry, "settings_sha256");
  });
  if (!whole) fail("{}: is not what a pipeline wrote here (\"stages\" with name, status and settings of each). Restore it, or start afresh with overwrite_output_dir: true", file_.string());
  if (state_["stages"].size() != stages_.size())
    refuse("{}: the pipeline had {} stages when it began and has {} now", file_.string(), state_["stages"].size(), stages_.size());
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Json& entry = state_["stages"][i];
    if (entry["status"] != "waiting" && entry["settings_sha256"] != settings_hash(stages_[i]))
      refuse("stage {}: its settings are not those it began with ({} has them). Restore them, or start the pipeline afresh in another output_dir",
             entry["name"].get<std::string>(), (fs::path(stages_[i].output_dir) / "attune_config.yaml").string());
  }
}

bool Pipeline::merged_is_needed(size_t i) const {
  const std::string merged = (fs::path(stages_[i].output_dir) / "merged").string();
  return std::any_of(stages_.begin(), stages_.end(), [&](const Config& c) { return c.model_name_or_path == merged; });
}

// Under another name until it is whole.
void Pipeline::merge_result(size_t i) {
  const fs::path output = stages_[i].output_dir, merged = output / "merged", temporary = output / ".tmp-merged";
  if (fs::exists(merged) || !merged_is_needed(i)) return;
  fs::remove_all(temporary);
  hooks_.merge(stages_[i], temporary.string());
  fs::rename(temporary, merged);
}

void Pipeline::run_stage(size_t i) {
  Json& entry = state_["stages"][i];
  Config c = stages_[i];
  const std::string name = entry["name"].get<std::string>();
  if (entry["status"] != "done") {
    info("stage {} of {}: {} on {}", i + 1, stages_.size(), name, c.model_name_or_path);
    if (entry["status"] == "waiting" || !finished(c)) {
      // A stage that has not begun may find what an earlier pipeline left, and only overwrite_output_dir may clear that.
      if (entry["status"] == "waiting") c.resume_from_checkpoint.clear();
      if (entry["status"] == "waiting" && c.overwrite_output_dir) {  // before it is called running: results of before would be taken for its own
        clear_previous_run(c.output_dir);
        fs::remove_all(fs::path(c.output_dir) / "merged");
      }
      if (entry["status"] == "running") c.resume_from_checkpoint = "true", c.overwrite_output_dir = false;
      entry["settings_sha256"] = settings_hash(stages_[i]);
      entry["status"] = "running";
      save();
      hooks_.run(c);
    }
    note_figures(c, entry);
    entry["status"] = "done";
    save();
  } else {
    info("stage {} of {}: {} is done already", i + 1, stages_.size(), name);
  }
  if (c.finetuning_type == "lora") merge_result(i);
}

std::string Pipeline::run() {
  for (size_t i = 0; i < stages_.size(); ++i) run_stage(i);
  print_table(state_["stages"]);
  info("the result is {}", stages_.back().output_dir);
  return dump_json(state_);
}

}  // namespace

std::string run_pipeline(const std::vector<Config>& stages, const PipelineHooks& hooks) { return Pipeline(stages, hooks).run(); }

}  // namespace attune::train
