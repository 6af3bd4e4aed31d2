// train and plan.
#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "plan/report.h"
#include "train/cross_validation.h"
#include "train/trainer.h"
#include "util/error.h"
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
  plan::Calibration calibration(budget, std::min(plan::calibration_memory(p.plan), setup.train_set ? kOperands : kFewOperands));
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

}  // namespace

int train(const RunArgs& args) {
  train::Config config = read_config(args.arguments);
  const auto once = [&](const train::Config& c, const train::Fold& fold) { return run_once(c, fold, args.force); };
  if (config.cross_validation > 0) config = settled_for_folds(config);
  const std::string results = config.cross_validation > 0 ? train::cross_validate(config, once) : once(config, {});
  if (args.json) fmt::print("{}\n", results);
  return 0;
}

int plan(const RunArgs& args) {
  const train::Config config = read_config(args.arguments, false);
  train::RunSetup setup = setup_for_plan(config);
  for (const std::string& line : plan::settle(setup)) notice("{}", line);
  if (setup.train_set)
    for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const auto [plan, suggestions] = make_plan(setup, setup.train_set ? kAsked : kWithoutData, args.all);
  fmt::print("{}", args.json ? plan::plan_json(plan, suggestions) + "\n" : plan::plan_text(plan, suggestions));
  return 0;
}

}  // namespace attune::cli
