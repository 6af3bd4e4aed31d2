// data validate, stats, inspect, convert.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_show.h"
#include "data/convert.h"
#include "data/readers.h"
#include "train/setup.h"
#include "util/error.h"
#include "util/log.h"

namespace attune::cli {
namespace {

using Action = data::DataReport::Action;

void print_report(const data::DataReport& report, bool json) {
  if (json) fmt::print("{}", report.jsonl());
  else
    for (const auto& e : report.entries()) fmt::print("{}: {}: {}\n", e.where, data::DataReport::name_of(e.action), e.reason);
}

// `text_files`: .txt and .md files are text.
data::Records read_files(const std::vector<std::string>& files, const data::Mapping& mapping, data::RowKind kind, data::DataReport& report, bool text_files = false) {
  data::Records records;
  for (const std::string& file : files) {
    data::DataSet set = data::find_data_set(file, ".");
    if (mapping.formatting != data::Mapping::Formatting::detect) set.mapping = mapping;
    const std::string extension = set.files[0].extension().string();
    const bool text = text_files && (extension == ".txt" || extension == ".md");
    data::read_records(set, {text ? data::RowKind::text : kind, 0}, records, report);
  }
  return records;
}

// Reads once before anything else: where nothing at all can be used, every row still says why.
template <class Read>
void read_or_report(data::DataReport& report, bool json, Read read) {
  try {
    read();
  } catch (const Error& e) {
    print_report(report, json);
    if (report.entries().empty()) throw;
    fail("{}", e.what());
  }
}

int validate_files(const ValidateArgs& args) {
  data::DataReport report;
  train::Config config;
  config.stage = args.stage;
  int64_t usable = 0, rows = 0;
  bool hopeless = false;
  for (const std::string& file : args.files) {
    try {
      const data::Records records = read_files({file}, {}, config.row_kind(), report);
      usable += static_cast<int64_t>(records.rows.size());
      rows += records.rows_read;
    } catch (const Error& e) {
      // The other files are still looked at.
      warn("{}", e.what());
      hopeless = true;
    }
  }
  print_report(report, args.run.json);
  info("{} of {} rows can be used{}", usable, rows, hopeless ? ", not counting files that cannot be used at all" : "");
  for (const std::string& line : report.summary()) info("{}", line);
  return hopeless || report.count(Action::dropped) > 0 ? 1 : 0;
}

Json statistics(const train::RunSetup& s) {
  Json json = {{"rows", s.rows_read}, {"validation_samples", s.eval_set ? s.eval_set->groups() : 0}};
  json.update(length_statistics(*s.train_set));
  json.update(answer_statistics(*s.train_set, s.config.row_kind()));
  for (Action action : {Action::dropped, Action::cut, Action::mended, Action::noted}) json[data::DataReport::name_of(action)] = s.report.rows(action);
  json["updates"] = s.total_steps;
  return json;
}

// The groups (samples, pairs …) that the command asks for: so many from the beginning, or those of one row.
std::vector<int64_t> chosen(const InspectArgs& args, const data::TokenSet& set) {
  std::vector<int64_t> groups;
  for (int64_t g = 0; g < set.groups(); ++g) {
    const bool of_row = set.where(g * set.group_size()).ends_with(":" + std::to_string(args.row));
    if (args.row > 0 ? of_row : g < args.count) groups.push_back(g);
  }
  if (args.row > 0 && groups.empty()) refuse("--row: no sample of the training data begins on line {}; it may be dropped, held out, or not exist", args.row);
  return groups;
}

Json tokens_json(const train::RunSetup& s, int64_t i) {
  const auto ids = s.train_set->ids(i);
  const auto weights = s.train_set->weights(i);
  Json tokens = Json::array();
  for (int32_t id : ids) tokens.push_back(s.tokenizer->id_to_token(id));
  return {{"ids", std::vector<int32_t>(ids.begin(), ids.end())}, {"tokens", tokens}, {"weights", std::vector<float>(weights.begin(), weights.end())}};
}

Json group_json(const train::RunSetup& s, int64_t group) {
  const data::TokenSet& set = *s.train_set;
  const int64_t first = group * set.group_size();
  Json json = {{"where", set.where(first)}, {"data_set", set.sources().at(static_cast<size_t>(set.source(first)))}};
  switch (s.config.row_kind()) {
    case data::RowKind::pair: {
      const PairView view = pair_view(set, group);
      json.update({{"prompt_tokens", view.prompt}, {"parts_at", view.parts_at}, {"chosen", tokens_json(s, first)}, {"rejected", tokens_json(s, first + 1)}});
      if (set.has_side(data::kMargin)) json["margin"] = set.side(data::kMargin, first);
      return json;
    }
    case data::RowKind::judged:
      json.update(tokens_json(s, first));
      json.update({{"desirable", set.side(data::kDesirable, first) == 1}, {"mismatched", tokens_json(s, first + 1)}});
      return json;
    default: json.update(tokens_json(s, first)); return json;
  }
}

// A whole pass, window by window: nothing else of a stream is ever in memory.
int validate_stream(const train::Config& config, bool json) {
  train::RunSetup s = train::prepare(config);
  data::TokenStream& stream = s.stream->stream();
  for (data::StreamWindow w = stream.window(s.stream->end(), config.buffer_size); w.pass == 0; w = stream.window(w.end, config.buffer_size)) {
    s.report.add(w.report);
    s.rows_read += w.rows;
  }
  print_report(s.report, json);
  info("{} rows read, a whole pass", s.rows_read);
  for (const std::string& line : s.report.summary()) info("{}", line);
  return s.report.count(Action::dropped) == 0 ? 0 : 1;
}

}  // namespace

int data_validate(const ValidateArgs& args) {
  if (!args.files.empty()) {
    if (!args.run.arguments.empty()) refuse("--file checks files by themselves; leave the configuration out, or --file");
    return validate_files(args);
  }
  if (args.stage != "sft") refuse("--stage goes with --file; a configuration says stage: {}", args.stage);
  const train::Config config = read_config(args.run.arguments);
  if (config.streaming) return validate_stream(config, args.run.json);
  data::DataReport early;
  read_or_report(early, args.run.json, [&] {
    train::read_data_sets(config, config.dataset, early);
    train::read_data_sets(config, config.eval_dataset, early);
  });
  const train::RunSetup s = train::prepare(config);
  print_report(s.report, args.run.json);
  for (const std::string& line : train::describe_data(s)) info("{}", line);
  return s.report.count(Action::dropped) == 0 ? 0 : 1;
}

int data_stats(const RunArgs& args) {
  const train::RunSetup s = train::prepare(read_config(args.arguments));
  for (const std::string& line : s.report.summary()) info("{}", line);
  const Json stats = statistics(s);
  if (args.json) {
    fmt::print("{}\n", dump_json(stats));
    return 0;
  }
  for (const auto& [key, value] : stats.items())
    if (key != "data_sets") fmt::print("{:<20} {}\n", key, key.ends_with("_share") ? fmt::format("{:.1f} %", 100 * value.get<double>()) : dump_json(value));
  fmt::print("\n{}", length_histogram(*s.train_set));
  fmt::print("\n{:<28} {:>9} {:>12} {:>9} {:>7} {:>7} {:>7}\n", "data set", "samples", "tokens", "labelled", "median", "p99", "max");
  for (const auto& [name, set] : stats["data_sets"].items())
    fmt::print("{:<28} {:>9} {:>12} {:>8.1f}% {:>7} {:>7} {:>7}\n", name, set["samples"].get<int64_t>(), set["tokens"].get<int64_t>(), 100 * set["labelled_share"].get<double>(),
               set["length"]["median"].get<int64_t>(), set["length"]["p99"].get<int64_t>(), set["length"]["max"].get<int64_t>());
  return 0;
}

int data_inspect(const InspectArgs& args) {
  const train::RunSetup s = train::prepare(read_config(args.run.arguments));
  const std::vector<int64_t> groups = chosen(args, *s.train_set);
  const Show show{*s.train_set, *s.tokenizer, s.config.row_kind(), ::isatty(STDOUT_FILENO) == 1};
  if (!args.html.empty()) {
    write_file_atomic(args.html, samples_page(show, groups));
    info("{}: {} samples", args.html, groups.size());
    return 0;
  }
  for (int64_t group : groups) fmt::print("{}\n", args.run.json ? dump_json(group_json(s, group)) : group_text(show, group));
  return 0;
}

int data_convert(const ConvertArgs& args) {
  const data::Format to = data::parse_format(args.to, "--to");
  const data::Mapping mapping = args.from.empty() ? data::Mapping{} : data::mapping_of(data::parse_format(args.from, "--from"));
  data::DataReport report;
  data::Records records;
  read_or_report(report, false, [&] { records = read_files(args.files, mapping, data::kind_of(to), report, to == data::Format::text); });
  std::string out;
  int64_t written = 0;
  for (const data::Record& record : records.rows) {
    data::Notes lost;
    const std::string where = records.where(record.source);
    try {
      out += dump_json(data::to_row(record, to, lost)) + "\n";
      ++written;
    } catch (const data::BadRow& bad) {
      report.add(Action::dropped, bad.reason, where);
    }
    for (const auto& [action, reason] : lost) report.add(action, reason, where);
  }
  for (const std::string& line : report.summary()) warn("{}", line);
  if (written == 0) fail("nothing could be converted to {}; the reasons stand above", args.to);
  if (args.out.empty()) fmt::print("{}", out);
  else write_file_atomic(args.out, out);
  info("{} of {} rows written as {}; columns that are not learnt from are left out", written, records.rows_read, args.to);
  return report.count(Action::dropped) == 0 ? 0 : 1;
}

}  // namespace attune::cli
