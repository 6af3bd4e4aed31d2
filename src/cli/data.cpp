// data validate, stats, inspect.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "train/setup.h"
#include "util/log.h"

namespace attune::cli {
namespace {

Json statistics(const train::RunSetup& s) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < s.train_set->size(); ++i) lengths.push_back(s.train_set->length(i));
  std::sort(lengths.begin(), lengths.end());
  const auto quantile = [&](double q) { return lengths[static_cast<size_t>(q * static_cast<double>(lengths.size() - 1))]; };
  return {{"rows", s.rows_read},
          {"samples", s.train_set->size()},
          {"validation_samples", s.eval_set ? s.eval_set->size() : 0},
          {"tokens", s.train_set->total_tokens()},
          {"labelled_tokens", s.train_set->labelled_tokens()},
          {"length", {{"min", lengths.front()}, {"median", quantile(0.5)}, {"p90", quantile(0.9)}, {"p99", quantile(0.99)}, {"max", lengths.back()}}},
          {"dropped", s.report.count(data::DataReport::Action::dropped)},
          {"cut", s.report.count(data::DataReport::Action::cut)},
          {"updates", s.total_steps}};
}

}  // namespace

int data_validate(const RunArgs& args) {
  const train::RunSetup s = train::prepare(read_config(args.arguments));
  if (args.json) {
    fmt::print("{}", s.report.jsonl());
  } else {
    for (const auto& e : s.report.entries())
      fmt::print("{}: {}: {}\n", e.where, data::DataReport::name_of(e.action), e.reason);
  }
  for (const std::string& line : train::describe_data(s)) info("{}", line);
  return s.report.count(data::DataReport::Action::dropped) == 0 ? 0 : 1;
}

int data_stats(const RunArgs& args) {
  const train::RunSetup s = train::prepare(read_config(args.arguments));
  for (const std::string& line : s.report.summary()) info("{}", line);
  const Json stats = statistics(s);
  if (args.json) {
    fmt::print("{}\n", dump_json(stats));
    return 0;
  }
  for (const auto& [key, value] : stats.items()) fmt::print("{:<20} {}\n", key, dump_json(value));
  return 0;
}

int data_inspect(const InspectArgs& args) {
  const train::RunSetup s = train::prepare(read_config(args.run.arguments));
  const bool colour = ::isatty(STDOUT_FILENO) == 1;
  for (int64_t i = 0; i < std::min(args.count, s.train_set->size()); ++i) {
    const auto ids = s.train_set->ids(i);
    const auto weights = s.train_set->weights(i);
    if (args.run.json) {
      Json tokens = Json::array();
      for (int32_t id : ids) tokens.push_back(s.tokenizer->id_to_token(id));
      fmt::print("{}\n", dump_json({{"where", s.train_set->where(i)}, {"ids", std::vector<int32_t>(ids.begin(), ids.end())}, {"tokens", tokens},
                                    {"weights", std::vector<float>(weights.begin(), weights.end())}}));
      continue;
    }
    fmt::print("{}  ({} tokens; {})\n", s.train_set->where(i), ids.size(), colour ? "green is learnt, grey is read" : "[[…]] is learnt");
    std::string out;
    bool learnt = false;
    const auto toggle = [&](bool now) {
      if (now != learnt) out += colour ? (now ? "\x1b[32m" : "\x1b[90m") : (now ? "[[" : "]]");
      learnt = now;
    };
    if (colour) out += "\x1b[90m";
    // Whole runs are decoded at once: a character may take several tokens.
    for (size_t begin = 0; begin < ids.size();) {
      size_t end = begin;
      while (end < ids.size() && (weights[end] != 0) == (weights[begin] != 0)) ++end;
      toggle(weights[begin] != 0);
      for (size_t t = begin; t < end; ++t) out += s.tokenizer->is_special(ids[t]) ? s.tokenizer->id_to_token(ids[t]) : s.tokenizer->token_bytes(ids[t]);
      begin = end;
    }
    toggle(false);
    fmt::print("{}{}\n\n", out, colour ? "\x1b[0m" : "");
  }
  return 0;
}

}  // namespace attune::cli
