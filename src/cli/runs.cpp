// runs.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "runs/run.h"
#include "util/error.h"

namespace attune::cli {

int runs_compare(const RunsCompareArgs& args) {
  if (args.json && args.markdown) refuse("--json and --markdown are two forms of the same table; choose one");
  std::vector<runs::Run> all;
  for (const std::string& directory : args.directories) all.push_back(runs::read_run(directory));
  if (!args.json) {
    fmt::print("{}", runs::table(all, args.markdown));
    return 0;
  }
  Json json = Json::array();
  for (const runs::Run& run : all) json.push_back(runs::run_json(run));
  fmt::print("{}\n", dump_json(json));
  return 0;
}

}  // namespace attune::cli
