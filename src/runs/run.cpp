#include "runs/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune::runs {
namespace {

Json read_object(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = read_json(file);
  if (!json.is_object()) fail("{}: expected a JSON object", file.string());
  return json;
}

std::optional<double> number(const Json& json, const std::string& key) {
  return json.contains(key) && json[key].is_number() ? std::optional(json[key].get<double>()) : std::nullopt;
}

std::optional<int64_t> whole(const Json& json, const std::string& key) {
  return json.contains(key) && json[key].is_number_integer() ? std::optional(json[key].get<int64_t>()) : std::nullopt;
}

std::string text(const Json& json, const std::string& key) { return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : ""; }

constexpr std::string_view kPrefix = "eval_", kSuffix = "_loss";

// "eval_medicine_loss" → "medicine"; empty for anything else.
std::string data_set_of(const std::string& key) {
  if (key.size() <= kPrefix.size() + kSuffix.size() || !key.starts_with(kPrefix) || !key.ends_with(kSuffix)) return "";
  const std::string name = key.substr(kPrefix.size(), key.size() - kPrefix.size() - kSuffix.size());
  return name == "nll" ? "" : name;  // a part of some preference losses
}

// The evaluation of the base model, which eval_on_start asks for.
Json first_evaluation(const Json& state) {
  if (state.contains("log_history") && state["log_history"].is_array())
    for (const Json& entry : state["log_history"])
      if (entry.is_object() && entry.contains("eval_loss") && whole(entry, "step") == 0) return entry;
  return Json::object();
}

using Row = std::vector<std::string>;

std::string thousands(int64_t n) {
  std::string digits = std::to_string(n);
  for (auto at = static_cast<ptrdiff_t>(digits.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string change_text(const Change& c) {
  if (!c.after) return "";
  return c.before ? fmt::format("{:.4f} → {:.4f}", *c.before, *c.after) : fmt::format("{:.4f}", *c.after);
}

std::string clock(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{} min {:02} s", s / 60, s % 60) : fmt::format("{:.1f} s", seconds);
}

std::string bytes(int64_t n) { return n >= 1'000'000'000 ? fmt::format("{:.2f} GB", static_cast<double>(n) / 1e9) : fmt::format("{:.0f} MB", static_cast<double>(n) / 1e6); }

struct Column {
  std::string title;
  std::function<std::string(const Run&)> text;
};

std::vector<Column> columns_of(const std::vector<Run>& runs) {
  const auto stage = [](const Run& r) { return r.stage; };
  std::vector<Column> all{{"run", [](const Run& r) { return r.name; }}};
  if (std::any_of(runs.begin(), runs.end(), [&](const Run& r) { return stage(r) != stage(runs[0]); })) all.push_back({"stage", stage});
  all.push_back({"method", [](const Run& r) { return r.method; }});
  all.push_back({"trained", [](const Run& r) { return r.trained ? thousands(*r.trained) : ""; }});
  all.push_back({"share", [](const Run& r) {
                   return r.trained && r.parameters.value_or(0) > 0 ? fmt::format("{:.3g} %", 100.0 * static_cast<double>(*r.trained) / static_cast<double>(*r.parameters)) : "";
                 }});
  all.push_back({"updates", [](const Run& r) { return r.steps ? thousands(*r.steps) : ""; }});
  all.push_back({"training loss", [](const Run& r) { return r.train_loss ? fmt::format("{:.4f}", *r.train_loss) : ""; }});
  all.push_back({"validation loss", [](const Run& r) { return change_text(r.validation); }});
  std::vector<std::string> sets;
  for (const Run& r : runs)
    for (const auto& [name, change] : r.data_sets)
      if (std::find(sets.begin(), sets.end(), name) == sets.end()) sets.push_back(name);
  for (const std::string& name : sets)
    all.push_back({"loss on " + name, [name](const Run& r) {
                     const auto it = std::find_if(r.data_sets.begin(), r.data_sets.end(), [&](const auto& s) { return s.first == name; });
                     return it == r.data_sets.end() ? "" : change_text(it->second);
                   }});
  all.push_back({"duration", [](const Run& r) { return r.seconds ? clock(*r.seconds) : ""; }});
  all.push_back({"tokens/s", [](const Run& r) { return r.tokens_per_second ? fmt::format("{:.0f}", *r.tokens_per_second) : ""; }});
  all.push_back({"peak memory", [](const Run& r) { return r.peak_memory_bytes ? bytes(*r.peak_memory_bytes) : ""; }});
  return all;
}

// Characters, as a terminal counts those that are not wide.
size_t length_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Names come from directories and data sets: none of them may break the table.
std::string printable(std::string text, bool markdown) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  for (size_t at = 0; markdown && (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
  return text;
}

Json optional_json(const auto& value) { return value ? Json(*value) : Json(nullptr); }
Json change_json(const Change& c) { return {{"before", optional_json(c.before)}, {"after", optional_json(c.after)}}; }

}  // namespace

Run read_run(const fs::path& directory) {
  if (!fs::is_directory(directory)) refuse("{}: no such directory; expected the output_dir of a run", directory.string());
  if (!fs::exists(directory / "train_results.json"))
    refuse("{}: {}", directory.string(),
           fs::exists(directory / "pipeline.json")      ? "a pipeline; name the directories of its stages"
           : fs::exists(directory / "trainer_log.jsonl") ? "this run has not finished (it has no train_results.json)"
                                                         : "not the output_dir of a run (it has no train_results.json)");
  const Json results = read_object(directory / "train_results.json"), manifest = read_object(directory / "attune_manifest.json");
  const Json last = read_object(directory / "eval_results.json"), first = first_evaluation(read_object(directory / "trainer_state.json"));
  Run run;
  run.directory = directory.string();
  const fs::path plain = directory.lexically_normal();
  run.name = (plain.has_filename() ? plain : plain.parent_path()).filename().string();
  run.stage = text(manifest, "stage");
  run.method = text(results, "method").empty() ? text(manifest, "finetuning_type") : text(results, "method");
  run.trained = whole(results, "trainable_parameters"), run.parameters = whole(results, "parameters"), run.steps = whole(results, "steps");
  run.train_loss = number(results, "train_loss");
  run.validation = {number(first, "eval_loss"), number(last, "eval_loss")};
  for (const auto& [key, value] : last.items())
    if (const std::string name = data_set_of(key); !name.empty() && value.is_number()) run.data_sets.emplace_back(name, Change{number(first, key), number(last, key)});
  run.seconds = number(results, "duration_seconds"), run.tokens_per_second = number(results, "tokens_per_second");
  run.peak_memory_bytes = whole(results, "peak_memory_bytes");
  return run;
}

Json run_json(const Run& r) {
  Json sets = Json::object();
  for (const auto& [name, change] : r.data_sets) sets[name] = change_json(change);
  return {{"directory", r.directory}, {"stage", r.stage}, {"method", r.method}, {"trainable_parameters", optional_json(r.trained)},
          {"parameters", optional_json(r.parameters)}, {"steps", optional_json(r.steps)}, {"train_loss", optional_json(r.train_loss)},
          {"validation_loss", change_json(r.validation)}, {"data_sets", sets}, {"duration_seconds", optional_json(r.seconds)},
          {"tokens_per_second", optional_json(r.tokens_per_second)}, {"peak_memory_bytes", optional_json(r.peak_memory_bytes)}};
}

std::string table(const std::vector<Run>& runs, bool markdown) {
  std::vector<Row> rows(runs.size() + 1);
  for (const Column& column : columns_of(runs)) {
    std::vector<std::string> cells;
    for (const Run& r : runs) cells.push_back(printable(column.text(r), markdown));
    if (std::all_of(cells.begin(), cells.end(), [](const std::string& c) { return c.empty(); })) continue;
    rows[0].push_back(printable(column.title, markdown));
    for (size_t i = 0; i < runs.size(); ++i) rows[i + 1].push_back(cells[i].empty() ? "–" : cells[i]);
  }
  std::vector<size_t> widths(rows[0].size());
  for (const Row& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], length_of(row[i]));
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      if (markdown) line += "| " + rows[r][i] + " ";
      else line += rows[r][i] + (i + 1 < rows[r].size() ? std::string(widths[i] - length_of(rows[r][i]) + 2, ' ') : "");
    }
    out += line + (markdown ? "|\n" : "\n");
    if (markdown && r == 0) {
      for (size_t i = 0; i < rows[r].size(); ++i) out += "|---";
      out += "|\n";
    }
  }
  return out;
}

}  // namespace attune::runs
