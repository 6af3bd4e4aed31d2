// train and plan.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "eval/evaluation.h"
#include "plan/report.h"
#include "train/cross_validation.h"
#include "train/pipeline.h"
#include "train/trainer.h"
#include "util/error.h"
#include "util/json.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {

namespace {

// What measuring may take: the plan of a run that is about to start, one that is asked for, and one from config.json alone.
constexpr double kBeforeRun = 0.8, kAsked = 1.6, kWithoutData = 0.3, kSuggestions = 0.3;

constexpr uint64_t kOperands = 128'000'000, kFewOperands = 32'000'000;

struct Planned {
  plan::Plan plan;
  std::vector<plan::Suggestion> suggestions;
};

// `always`: what else would fit is of interest even where the run does.
Planned make_plan(train::RunSetup& setup, double budget, bool always) {
  Planned p{plan::make_plan(setup, nullptr), {}};
  plan::Calibration calibration(budget, std::min(plan::calibration_memory(p.plan), setup.train_set ? kOperands : kFewOperands), *setup.engine.backend);
  p.plan = plan::make_plan(setup, &calibration);
  if (p.plan.fits() && !always) return p;
  calibration.add_budget(kSuggestions);
  p.suggestions = plan::suggestions(setup, p.plan, &calibration);
  return p;
}

std::string run_once(const train::Config& config, const train::Fold& fold, bool force) {
  train::RunSetup setup = train::prepare(config, fold);
  for (const std::string& line : plan::settle(setup)) notice("{}", line);
  for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const auto [plan, suggestions] = make_plan(setup, kBeforeRun, false);
  info("{}", plan::plan_text(plan, suggestions));
  if (!plan.fits() && !force)
    refuse("this run needs {} but {} are available. Change a setting as above, set auto_fit: true, or start it all the same with --force",
           format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  if (!plan.fits() || plan.tight())
    warn("this run needs {} of {} that are available: the machine may begin to swap", format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  return train::run_training(setup, plan.parts.activations);
}

// Folds must not choose one by one: what the first needs holds for all.
train::Config settled_for_folds(const train::Config& config) {
  if (!config.auto_fit && !config.auto_batch) return config;
  train::RunSetup setup = train::prepare(config, {config.cross_validation, 0});
  for (const std::string& line : plan::settle(setup)) notice("{}", line);
  train::Config settled = setup.config;
  settled.auto_fit = false;
  return settled;
}

train::RunSetup setup_for_plan(const train::Config& config) {
  if (config.dataset.empty()) return train::prepare_without_data(config);
  if (fs::is_directory(config.model_name_or_path) && !text::Tokenizer::found_in(config.model_name_or_path))
    refuse("{}: there is no tokenizer here to read the data with (tokenizer.json, tokenizer.model or vocab.txt). Leave dataset out to plan for "
           "the worst case from cutoff_len", config.model_name_or_path);
  return train::prepare(config, {config.cross_validation, 0});
}

// The result of the stage before may not be there yet; it will have the shape of the first base.
train::Config before_it_begins(const train::Config& stage, const std::string& base) {
  train::Config c = stage;
  if (!fs::exists(fs::path(c.model_name_or_path) / "config.json")) c.model_name_or_path = base;
  return c;
}

// Every stage must be known to work before the first begins.
void check_stages(const std::vector<train::Config>& stages, bool force) {
  for (const train::Config& stage : stages) {
    train::RunSetup setup = train::prepare(before_it_begins(stage, stages[0].model_name_or_path));
    train::check_run(setup);
    plan::settle(setup);
    const plan::Plan plan = plan::make_plan(setup, nullptr);
    if (!plan.fits() && !force)
      refuse("stage {} needs {} but {} are available. `attune plan` shows what would fit; --force starts all the same",
             fs::path(stage.output_dir).filename().string(), format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  }
}

std::string run_pipeline(const std::vector<train::Config>& stages, bool force) {
  check_stages(stages, force);
  train::PipelineHooks hooks;
  hooks.run = [&](const train::Config& c) { return run_once(c, {}, force); };
  hooks.merge = [](const train::Config& stage, const std::string& out) {
    MergeArgs args;
    args.model = stage.model_name_or_path, args.out = out;
    args.adapters = {fmt::format("{}", fmt::join(eval::evaluated_adapters(stage), ","))};  // with those below the new one
    // The weights beside which it has learnt: the next stage goes on with what this one has measured.
    if (stage.quantization().on()) args.base = "dequantized";
    merge(args);
  };
  return train::run_pipeline(stages, hooks);
}

// Prints a plan, or gathers it as JSON.
plan::Plan plan_one(const train::Config& config, const RunArgs& args, std::string& json) {
  train::RunSetup setup = setup_for_plan(config);
  for (const std::string& line : plan::settle(setup)) notice("{}", line);
  if (setup.train_set) {
    train::check_run(setup);
    for (const std::string& line : train::describe_data(setup)) info("{}", line);
  }
  const auto [plan, suggestions] = make_plan(setup, setup.train_set ? kAsked : kWithoutData, args.all);
  if (args.json) json = plan::plan_json(plan, suggestions);
  else fmt::print("{}", plan::plan_text(plan, suggestions));
  return plan;
}

}  // namespace

int train(const RunArgs& args) {
  const std::vector<train::Config> stages = read_stages(args.arguments);
  std::string results;
  if (stages.size() > 1) {
    results = run_pipeline(stages, args.force);
  } else {
    const auto once = [&](const train::Config& c, const train::Fold& fold) { return run_once(c, fold, args.force); };
    const bool folds = stages[0].cross_validation > 0;
    results = folds ? train::cross_validate(settled_for_folds(stages[0]), once) : once(stages[0], {});
  }
  if (args.json) fmt::print("{}\n", results);
  return 0;
}

int plan(const RunArgs& args) {
  const std::vector<train::Config> stages = read_stages(args.arguments, false);
  std::string json;
  if (stages.size() == 1) {
    plan_one(stages[0], args, json);
    if (args.json) fmt::print("{}\n", json);
    return 0;
  }
  Json all = {{"peak_memory_bytes", 0}, {"duration_seconds", 0.0}, {"fits", true}, {"stages", Json::array()}};
  for (const train::Config& stage : stages) {
    const std::string name = fs::path(stage.output_dir).filename().string();
    if (!args.json) fmt::print("{}\n", name);
    const plan::Plan p = plan_one(before_it_begins(stage, stages[0].model_name_or_path), args, json);
    if (!args.json) continue;
    Json one = parse_json(json, "plan");
    one["name"] = name;
    all["stages"].push_back(std::move(one));
    all["peak_memory_bytes"] = std::max(all["peak_memory_bytes"].get<uint64_t>(), p.peak_bytes());
    all["duration_seconds"] = all["duration_seconds"].get<double>() + p.seconds;
    all["fits"] = all["fits"].get<bool>() && p.fits();
  }
  if (args.json) fmt::print("{}\n", dump_json(all));
  return 0;
}

}  // namespace attune::cli
