#include "plan/ladder.h"

#include <algorithm>
#include <set>

#include "train/config_schema.h"
#include "util/error.h"
#include "util/machine.h"

namespace attune::plan {
namespace {

using models::DecoderConfig;
using train::Config;
using train::RunSetup;

// A plan above this share of what is available leaves no room for what else the machine does.
constexpr double kComfortable = 0.9;

// From this price on a rung gives up layers or length.
constexpr double kDear = 30;

bool has_optimizer(const std::string& name) {
  const auto& known = optim::Optimizer::names();
  return std::find(known.begin(), known.end(), name) != known.end();
}

bool is_adam(const Config& c) { return c.optim.starts_with("adam") && c.optim.find("8bit") == std::string::npos && c.optim.find("8_bit") == std::string::npos; }

Settings to_pure_bf16(const Config& c) {
  Settings s;
  if (c.pure_bf16) return s;
  if (c.fp16) s.emplace_back("fp16", "false");
  s.emplace_back("pure_bf16", "true");
  return s;
}

Settings in_backward(const Config& c, const std::string& optimizer) {
  if (c.optimizer_in_backward && c.optim == optimizer) return {};
  Settings s = to_pure_bf16(c);
  if (c.optim != optimizer) s.emplace_back("optim", optimizer);
  if (!c.optimizer_in_backward) s.emplace_back("optimizer_in_backward", "true");
  if (c.gradient_accumulation_steps > 1) s.emplace_back("gradient_accumulation_steps", "1");
  return s;
}

Settings quantised(const Config& c, const char* bits) {
  if (c.finetuning_type != "lora" || c.quantization().on() || c.pissa_init || c.init_lora_weights != "true") return {};
  return {{"quantization_bit", bits}};
}

std::vector<Rung> all_rungs() {
  std::vector<Rung> rungs;
  rungs.push_back({"micro-batch", [](const Config& c, const DecoderConfig&) -> Settings {
                     if (c.per_device_train_batch_size == 1 || c.optimizer_in_backward) return {};
                     return {{"per_device_train_batch_size", "1"},
                             {"gradient_accumulation_steps", std::to_string(c.per_device_train_batch_size * c.gradient_accumulation_steps)}};
                   }, 0, "the same updates"});
  rungs.push_back({"recompute", [](const Config& c, const DecoderConfig&) -> Settings {
                     if (c.gradient_checkpointing == "block") return {};
                     return {{"gradient_checkpointing", "block"}};
                   }, 0, "the same result"});
  rungs.push_back({"base", [](const Config& c, const DecoderConfig&) { return quantised(c, "8"); }, 1, "the base in 8 bits"});
  rungs.push_back({"base", [](const Config& c, const DecoderConfig&) { return quantised(c, "4"); }, 2, "the base in 4 bits (QLoRA)"});
  rungs.push_back({"state", [](const Config& c, const DecoderConfig&) { return to_pure_bf16(c); }, 3, "no fp32 masters, stochastic rounding"});
  if (has_optimizer("adamw_8bit")) {
    rungs.push_back({"state", [](const Config& c, const DecoderConfig&) -> Settings {
                       if (!is_adam(c)) return {};
                       Settings s = to_pure_bf16(c);
                       s.emplace_back("optim", "adamw_8bit");
                       return s;
                     }, 4, "no fp32 masters, moments in 8 bits"});
    rungs.push_back({"state", [](const Config& c, const DecoderConfig&) -> Settings {
                       return is_adam(c) || c.optim == "adamw_8bit" ? in_backward(c, "adamw_8bit") : Settings{};
                     }, 6, "moments in 8 bits, clipped by the norm of the update before"});
  }
  rungs.push_back({"state", [](const Config& c, const DecoderConfig&) { return in_backward(c, "adafactor"); }, 12,
                   "no momentum, second moments by row and column, clipped by the norm of the update before; tune the rate anew"});
  // Only together with updates inside backward, which cannot accumulate.
  rungs.push_back({"micro-batch", [](const Config& c, const DecoderConfig&) -> Settings {
                     if (c.per_device_train_batch_size == 1 || !c.optimizer_in_backward) return {};
                     return {{"per_device_train_batch_size", "1"}};
                   }, 8, "updates of one sample"});
  rungs.push_back({"layers", [](const Config& c, const DecoderConfig& a) -> Settings {
                     if (c.finetuning_type != "full" || a.num_hidden_layers < 2) return {};
                     return {{"finetuning_type", "freeze"}, {"freeze_trainable_layers", std::to_string(a.num_hidden_layers / 2)}};
                   }, kDear, "only the last half of the layers learns"});
  rungs.push_back({"length", [](const Config& c, const DecoderConfig&) -> Settings {
                     if (c.cutoff_len < 256) return {};
                     return {{"cutoff_len", std::to_string(c.cutoff_len / 2)}};
                   }, 60, "longer samples are cut"});
  rungs.push_back({"length", [](const Config& c, const DecoderConfig&) -> Settings {
                     if (c.cutoff_len < 512) return {};
                     return {{"cutoff_len", std::to_string(c.cutoff_len / 4)}};
                   }, 90, "longer samples are cut"});
  return rungs;
}

// Rungs by family, in the order in which they are applied: what depends on updates inside backward comes behind it.
struct Candidate {
  Config config;
  Suggestion suggestion;
};

void merge(Settings& into, const Settings& more) {
  for (const auto& [key, value] : more) {
    const auto it = std::find_if(into.begin(), into.end(), [&key = key](const auto& s) { return s.first == key; });
    if (it == into.end()) into.emplace_back(key, value);
    else it->second = value;
  }
}

// All combinations over `families`, the last applied last.
std::vector<Candidate> combinations(const RunSetup& s, const std::vector<std::string>& families) {
  std::vector<Candidate> all{{s.config, {}}};
  for (const std::string& family : families) {
    const size_t before = all.size();
    for (size_t i = 0; i < before; ++i)
      for (const Rung& rung : ladder()) {
        if (rung.family != family) continue;
        const Settings settings = rung.settings(all[i].config, s.architecture);
        if (settings.empty()) continue;
        Candidate c = all[i];
        c.config = with_settings(c.config, settings, "plan");
        merge(c.suggestion.settings, settings);
        c.suggestion.price += rung.price;
        if (rung.price > 0 || c.suggestion.quality.empty()) {
          const std::string said = c.suggestion.price > rung.price ? c.suggestion.quality + "; " : "";
          c.suggestion.quality = said + rung.quality;
        }
        all.push_back(std::move(c));
      }
  }
  all.erase(all.begin());
  return all;
}

// Peaks of those that the engine takes and that are smaller than the plan.
std::vector<Candidate> measured(const RunSetup& s, const Plan& plan, std::vector<Candidate> all) {
  std::vector<Candidate> out;
  for (Candidate& c : all) {
    try {
      Plan other = make_plan(s, c.config, nullptr);
      other.program_bytes = plan.program_bytes;
      c.suggestion.peak_bytes = other.peak_bytes();
    } catch (const Error&) {
      continue;  // not with the other settings
    }
    if (c.suggestion.peak_bytes >= plan.peak_bytes()) continue;
    c.suggestion.fits = c.suggestion.peak_bytes <= plan.available_bytes;
    out.push_back(std::move(c));
  }
  return out;
}

void add_speed(const RunSetup& s, const Plan& plan, Calibration& calibration, Candidate& c) {
  const Plan other = make_plan(s, c.config, &calibration);
  c.suggestion.tokens_per_second = other.tokens_per_second;
  if (plan.tokens_per_second > 0) c.suggestion.speed_change = 100 * (other.tokens_per_second / plan.tokens_per_second - 1);
  c.suggestion.price -= std::min(0.0, c.suggestion.speed_change);
}

// The largest power of two that fits; with accumulation, of those that divide the update.
int64_t largest_batch(const RunSetup& s, int64_t update, int64_t most) {
  int64_t best = 0;
  for (int64_t b = 1; b <= most && (update == 0 || update % b == 0); b *= 2) {
    Config c = s.config;
    c.per_device_train_batch_size = b;
    if (update > 0) c.gradient_accumulation_steps = update / b;
    const Plan plan = make_plan(s, c, nullptr);
    if (static_cast<double>(plan.peak_bytes()) > kComfortable * static_cast<double>(plan.available_bytes)) break;
    best = b;
  }
  return best;
}

bool was_set(const Config& c, const std::string& key) {
  return std::any_of(c.settings.begin(), c.settings.end(), [&](const Config::Setting& s) { return s.key == key; });
}

std::string choose_batch(RunSetup& s) {
  Config c = s.config;
  const int64_t update = was_set(c, "gradient_accumulation_steps") ? c.gradient_accumulation_steps : 0;
  c.auto_batch = false;
  c.per_device_train_batch_size = 1;
  train::arrange(s, c);
  const int64_t samples = s.train_set ? s.train_batches->steps_in_epoch(0) * std::max<int64_t>(1, c.gradient_accumulation_steps) : 1024;
  const int64_t b = std::max<int64_t>(1, largest_batch(s, c.optimizer_in_backward ? 0 : update, update > 0 && !c.optimizer_in_backward ? update : samples));
  c.per_device_train_batch_size = b;
  if (update > 0 && !c.optimizer_in_backward) c.gradient_accumulation_steps = update / b;
  train::arrange(s, c);
  return fmt::format("per_device_train_batch_size: auto is {}, gradient_accumulation_steps {}: the largest power of two that fits", b,
                     c.gradient_accumulation_steps);
}

// Keys that settling may change, beside the batch.
std::set<std::string> settled_keys() {
  return {"per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "bf16", "fp16", "pure_bf16", "optim",
          "optimizer_in_backward", "quantization_bit", "finetuning_type", "freeze_trainable_layers", "cutoff_len"};
}

// What the run that is resumed was settled to; empty where there is none.
Settings recorded(const Config& c) {
  if (c.resume_from_checkpoint.empty()) return {};
  const bool newest = c.resume_from_checkpoint == "true" || c.resume_from_checkpoint == "True";
  const fs::path run = newest ? fs::path(c.output_dir) / (c.cross_validation > 0 ? "fold-1" : "") : fs::path(c.resume_from_checkpoint).parent_path();
  if (!fs::exists(run / "attune_config.yaml")) return {};
  const Config then = train::read_resolved(run / "attune_config.yaml");
  Settings out;
  for (const std::string& key : settled_keys()) out.emplace_back(key, train::find_key(key)->get(then));
  return out;
}

}  // namespace

const std::vector<Rung>& ladder() {
  static const std::vector<Rung> rungs = all_rungs();
  return rungs;
}

std::string Suggestion::change() const {
  std::string out;
  for (const auto& [key, value] : settings) out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", key, value);
  return out;
}

Config with_settings(const Config& config, const Settings& settings, const std::string& where) {
  Config c = config;
  for (const auto& [key, value] : settings) train::find_key(key)->set(c, {key, where, {value}, {}, false, false});
  return c;
}

std::vector<Suggestion> suggestions(const RunSetup& s, const Plan& plan, Calibration* calibration, size_t most) {
  std::vector<std::string> families{"base", "state", "recompute", "micro-batch"};
  std::vector<Candidate> found;
  for (const char* more : {"", "layers", "length"}) {
    if (*more) families.emplace_back(more);
    found = measured(s, plan, combinations(s, families));
    if (std::any_of(found.begin(), found.end(), [](const Candidate& c) { return c.suggestion.fits; })) break;
  }
  // Where something fits, nobody wants to hear of what does not.
  // Where nothing fits, first what comes nearest without giving up layers or length.
  const auto by_peak = [](const Candidate& a, const Candidate& b) {
    return std::tuple(a.suggestion.price >= kDear, a.suggestion.peak_bytes) < std::tuple(b.suggestion.price >= kDear, b.suggestion.peak_bytes);
  };
  if (std::any_of(found.begin(), found.end(), [](const Candidate& c) { return c.suggestion.fits; }))
    std::erase_if(found, [](const Candidate& c) { return !c.suggestion.fits; });
  else
    std::stable_sort(found.begin(), found.end(), by_peak);
  const auto by_price = [](const Candidate& a, const Candidate& b) {
    return std::tuple(a.suggestion.price, a.suggestion.settings.size(), a.suggestion.peak_bytes) <
           std::tuple(b.suggestion.price, b.suggestion.settings.size(), b.suggestion.peak_bytes);
  };
  const bool fitting = !found.empty() && found[0].suggestion.fits;
  if (fitting) std::stable_sort(found.begin(), found.end(), by_price);
  // Quality alone has ranked them; speed is asked of twice as many as are wanted.
  if (found.size() > 2 * most) found.resize(2 * most);
  if (calibration)
    for (Candidate& c : found) add_speed(s, plan, *calibration, c);
  if (fitting) std::stable_sort(found.begin(), found.end(), by_price);
  if (found.size() > most) found.resize(most);
  std::vector<Suggestion> out;
  for (Candidate& c : found) out.push_back(std::move(c.suggestion));
  return out;
}

std::vector<std::string> settle(RunSetup& s, uint64_t available) {
  std::vector<std::string> said;
  if (!s.config.auto_fit && !s.config.auto_batch) return said;
  if (const Settings then = recorded(s.config); !then.empty()) {
    Config c = with_settings(s.config, then, "attune_config.yaml");
    c.auto_batch = false;
    const bool cut_anew = c.cutoff_len != s.config.cutoff_len;
    if (cut_anew) s = train::prepare(c);
    else train::arrange(s, c);
    said.push_back("auto_fit and per_device_train_batch_size: auto are as the resumed run recorded them");
    return said;
  }
  const bool batch = s.config.auto_batch;
  if (batch) said.push_back(choose_batch(s));
  if (!s.config.auto_fit) return said;
  Plan plan = make_plan(s, nullptr);
  if (available > 0) plan.available_bytes = available;
  if (plan.fits()) return said;
  Calibration calibration(0.8, calibration_memory(plan), *s.engine.backend);
  Plan timed = make_plan(s, &calibration);
  timed.available_bytes = plan.available_bytes;
  timed.program_bytes = plan.program_bytes;
  const auto ways = suggestions(s, timed, &calibration, 1);
  if (ways.empty() || !ways[0].fits)
    refuse("auto_fit: this run needs {} and {} are available; no combination of settings that is known fits. Choose a smaller model",
           format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  Config c = with_settings(s.config, ways[0].settings, "auto_fit");
  if (c.cutoff_len != s.config.cutoff_len) s = s.train_set ? train::prepare(c) : train::prepare_without_data(c);
  else train::arrange(s, c);
  said.push_back(fmt::format("auto_fit: {} are needed and {} available, so this run has {} ({}, {:+.0f} % tokens/s): {}", format_bytes(plan.peak_bytes()),
                             format_bytes(plan.available_bytes), ways[0].change(), format_bytes(ways[0].peak_bytes), ways[0].speed_change, ways[0].quality));
  return said;
}

}  // namespace attune::plan
