// train and plan.
#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "plan/planner.h"
#include "train/trainer.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {

int train(const RunArgs& args) {
  train::RunSetup setup = train::prepare(read_config(args.arguments));
  for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const plan::Plan plan = plan::make_plan(setup, false);
  info("{}", plan::plan_text(setup, plan));
  if (!plan.fits() && !args.force)
    refuse("this run needs {} but {} are available. Change a setting as above, or start it all the same with --force",
           format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  const std::string results = train::run_training(setup, plan.parts.activations);
  if (args.json) fmt::print("{}\n", results);
  return 0;
}

int plan(const RunArgs& args) {
  train::RunSetup setup = train::prepare(read_config(args.arguments));
  for (const std::string& line : train::describe_data(setup)) info("{}", line);
  const plan::Plan plan = plan::make_plan(setup, true);
  if (args.json) fmt::print("{}\n", plan::plan_json(setup, plan));
  else fmt::print("{}", plan::plan_text(setup, plan));
  return 0;
}

}  // namespace attune::cli
