// train and plan.
#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "plan/planner.h"
#include "train/cross_validation.h"
#include "train/trainer.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {

namespace {

std::string run_once(const train::Config& config, const train::Fold& fold, bool force) {
  train::RunSetup setup = train::prepare(config, fold);
  for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const plan::Plan plan = plan::make_plan(setup, false);
  info("{}", plan::plan_text(setup, plan));
  if (!plan.fits() && !force)
    refuse("this run needs {} but {} are available. Change a setting as above, or start it all the same with --force",
           format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  return train::run_training(setup, plan.parts.activations);
}

}  // namespace

int train(const RunArgs& args) {
  const train::Config config = read_config(args.arguments);
  const auto once = [&](const train::Config& c, const train::Fold& fold) { return run_once(c, fold, args.force); };
  const std::string results = config.cross_validation > 0 ? train::cross_validate(config, once) : once(config, {});
  if (args.json) fmt::print("{}\n", results);
  return 0;
}

int plan(const RunArgs& args) {
  const train::Config config = read_config(args.arguments);
  train::RunSetup setup = train::prepare(config, {config.cross_validation, 0});
  for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const plan::Plan plan = plan::make_plan(setup, true);
  if (args.json) fmt::print("{}\n", plan::plan_json(setup, plan));
  else fmt::print("{}", plan::plan_text(setup, plan));
  return 0;
}

}  // namespace attune::cli
