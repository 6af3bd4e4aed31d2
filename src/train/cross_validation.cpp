#include "train/cross_validation.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/checkpoint.h"
#include "train/content.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/log.h"

namespace attune::train {
namespace {

constexpr const char* kFoldResult = "fold_result.json";

Config fold_config(const Config& config, int64_t fold) {
  Config c = config;
  c.output_dir = (fs::path(config.output_dir) / fmt::format("fold-{}", fold + 1)).string();
  c.keep_model = config.cross_validation_model == "folds";
  return c;
}

// What a finished fold must have been made with to be taken as it is.
std::string fingerprint(const Config& config) {
  Config c = config;
  c.resume_from_checkpoint.clear();
  c.overwrite_output_dir = false;
  return sha256_hex(c.resolved_yaml());
}

Json finished_fold(const Config& c, const std::string& inputs) {
  const fs::path file = fs::path(c.output_dir) / kFoldResult;
  if (c.resume_from_checkpoint.empty() || !fs::exists(file)) return nullptr;
  const Json result = read_json(file);
  const bool same = result.value("configuration_sha256", std::string()) == fingerprint(c) && result.value("inputs", std::string()) == inputs;
  return same ? result : Json(nullptr);
}

// Mean and standard deviation (n−1) of every metric that all folds have.
void add_statistics(Json& summary) {
  const Json& folds = summary["folds"];
  Json mean = Json::object(), deviation = Json::object();
  for (const auto& [name, first] : folds[0].items()) {
    if (!name.starts_with("eval_") || !first.is_number() || name.find("runtime") != std::string::npos || name.find("per_second") != std::string::npos ||
        name == "eval_tokens" || name == "eval_samples")
      continue;
    // A data set may be so small that a fold holds nothing of it out.
    if (std::any_of(folds.begin(), folds.end(), [&name = name](const Json& fold) { return !fold.contains(name); })) continue;
    double sum = 0, squares = 0;
    for (const Json& fold : folds) sum += fold.at(name).get<double>();
    const auto n = static_cast<double>(folds.size());
    for (const Json& fold : folds) squares += std::pow(fold.at(name).get<double>() - sum / n, 2);
    mean[name] = sum / n;
    deviation[name] = std::sqrt(squares / (n - 1));
  }
  summary["mean"] = mean;
  summary["standard_deviation"] = deviation;
}

// On all of the data there is nothing left to stop by: as long as the folds needed on average.
Config final_config(const Config& config, const Json& folds) {
  Config c = config;
  c.cross_validation = 0;
  const bool chosen = config.load_best_model_at_end || config.early_stopping_patience > 0;
  c.load_best_model_at_end = false;
  c.early_stopping_patience = c.num_generation_samples = 0;
  if (c.save_strategy == "best") c.save_strategy = "no";
  if (!chosen) return c;
  double share = 0;
  for (const Json& fold : folds) share += fold.at("best_share").get<double>() / static_cast<double>(folds.size());
  if (c.max_steps > 0) c.max_steps = std::max<int64_t>(1, std::llround(share * static_cast<double>(c.max_steps)));
  else c.num_train_epochs *= share;
  info("the folds were best after {:.0f} % of the run on average: the final model is trained that long", 100 * share);
  return c;
}

}  // namespace

std::string cross_validate(const Config& config, const RunOnce& run) {
  const int64_t count = config.cross_validation;
  if (config.cross_validation_model == "final") {  // not after hours of folds
    protect_output(config);
    protect_finished_run(config);
  }
  const std::string inputs = content_of_inputs(config);
  Json summary = {{"cross_validation", count}, {"folds", Json::array()}};
  for (int64_t i = 0; i < count; ++i) {
    const Config c = fold_config(config, i);
    Json result = finished_fold(c, inputs);
    if (result.is_null()) {
      info("fold {} of {}: {}", i + 1, count, c.output_dir);
      result = parse_json(run(c, {count, i}), "results");
      result["fold"] = i + 1;
      result["configuration_sha256"] = fingerprint(c);
      result["inputs"] = inputs;
      write_file_atomic(fs::path(c.output_dir) / kFoldResult, result.dump(2) + "\n");
      if (!c.keep_model) remove_checkpoints(c.output_dir);
    } else {
      info("fold {} of {} is finished: {}", i + 1, count, c.output_dir);
    }
    summary["folds"].push_back(result);
  }
  add_statistics(summary);
  for (const auto& [name, mean] : summary["mean"].items())
    info("{}: {:.4f} ± {:.4f} over {} folds", name, mean.get<double>(), summary["standard_deviation"][name].get<double>(), count);
  const std::string text = summary.dump(2) + "\n";
  if (config.cross_validation_model == "final") {
    info("final model, on all data");
    run(final_config(config, summary["folds"]), {});
  }
  write_file_atomic(fs::path(config.output_dir) / "cross_validation.json", text);
  return dump_json(summary);
}

}  // namespace attune::train
