#include "plan/report.h"

#include <nlohmann/json.hpp>

#include "util/json.h"
#include "util/machine.h"

namespace attune::plan {
namespace {

uint64_t arena_part(const Plan& p, const std::string& name) {
  const auto it = p.arena.find(name);
  return it == p.arena.end() ? 0 : it->second;
}

struct Part {
  const char* key;
  const char* text;
  uint64_t bytes;
};
// Every byte of the peak in one place.
std::vector<Part> parts_of(const Plan& p) {
  const uint64_t head = arena_part(p, "head"), backward = arena_part(p, "backward"), gradients = arena_part(p, "gradients"),
                 workspace = arena_part(p, "workspace");
  return {{"weights", "weights", p.parts.weights},
          {"masters", "fp32 masters", p.parts.masters},
          {"gradients", "gradients", p.parts.gradients + gradients},
          {"optimizer", "optimizer", p.parts.optimizer},
          {"activations", "activations", p.parts.activations - head - backward - gradients - workspace},
          {"backward", "block in work", backward},
          {"head", "head", head},
          {"workspace", "workspace", workspace},
          {"tables", "position tables", p.parts.tables},
          {"samples", "generated samples", p.sample_bytes},
          {"reference", "ref_model, before the run", p.reference_bytes},
          {"program", "program and data", p.program_bytes + p.library_bytes}};
}

std::string count_text(double n) { return n >= 1e9 ? fmt::format("{:.2f} B", n / 1e9) : n >= 1e6 ? fmt::format("{:.1f} M", n / 1e6) : fmt::format("{:.0f}", n); }

std::string time_text(const Plan& p) {
  std::string out = fmt::format("an update: {:.4g} TFLOP, {} moved", p.step.flops / 1e12, format_bytes(static_cast<uint64_t>(p.step.bytes)));
  if (p.update_seconds > 0) out += fmt::format(", {:.3g} s", p.update_seconds);
  out += "\n";
  if (p.tokens_per_second > 0) out += fmt::format("{:.0f} tokens/s", p.tokens_per_second);
  if (p.seconds > 0) out += fmt::format(", about {} for {} updates of {} tokens", format_seconds(p.seconds), p.updates, p.tokens);
  if (p.evaluation_seconds + p.checkpoint_seconds > 0.01 * p.seconds && p.seconds > 0)
    out += fmt::format(" (evaluation {}, checkpoints {})", format_seconds(p.evaluation_seconds), format_seconds(p.checkpoint_seconds));
  return p.tokens_per_second > 0 ? out + "\n" : out;
}

std::string suggestion_text(const Suggestion& s) {
  std::string speed = s.tokens_per_second > 0 ? fmt::format("{:+.0f} % tokens/s", s.speed_change) : "";
  return fmt::format("  {:>10}{}  {:<16} {}\n  {:>10}   {:<16} ({})\n", format_bytes(s.peak_bytes), s.fits ? " " : "!", speed, s.change(), "", "", s.quality);
}

}  // namespace

std::string plan_text(const Plan& p, const std::vector<Suggestion>& suggestions) {
  std::string out = fmt::format("{} parameters, {} trained; {}\n", count_text(static_cast<double>(p.parameters)), count_text(static_cast<double>(p.trainable)),
                                p.from_data ? fmt::format("{} updates, {} tokens", p.updates, p.tokens) : "no data: every sequence as long as cutoff_len");
  for (const Part& part : parts_of(p)) {
    if (part.bytes == 0) continue;
    const uint64_t blocks = arena_part(p, "blocks");
    const std::string each = std::string(part.key) == "activations" && p.layers > 0
                                 ? fmt::format("   {} blocks of {}", p.layers, format_bytes(blocks / static_cast<uint64_t>(p.layers)))
                                 : "";
    out += fmt::format("  {:<22}{:>12}{}\n", part.text, format_bytes(part.bytes), each);
  }
  out += fmt::format("  {:<22}{:>12}   of {} available\n", "peak", format_bytes(p.peak_bytes()), format_bytes(p.available_bytes));
  out += time_text(p);
  if (p.tight()) out += "this is more than 90 % of what is available: what else runs here may make the machine swap\n";
  if (!p.fits()) out += suggestions.empty() ? "does not fit, and no change of settings that is known would make it smaller\n" : "does not fit. ";
  if (!suggestions.empty()) {
    out += suggestions[0].fits ? "What fits, cheapest first:\n" : "Nothing known fits; these come nearest:\n";
    for (const Suggestion& s : suggestions) out += suggestion_text(s);
  }
  return out;
}

std::string plan_json(const Plan& p, const std::vector<Suggestion>& suggestions) {
  Json json;
  json["peak_memory_bytes"] = p.peak_bytes();
  Json parts = Json::object();
  for (const Part& part : parts_of(p)) parts[part.key] = part.bytes;
  json["parts"] = parts;
  json["activation_bytes_per_block"] = p.layers > 0 ? arena_part(p, "blocks") / static_cast<uint64_t>(p.layers) : 0;
  json["available_memory_bytes"] = p.available_bytes;
  json["parameters"] = p.parameters;
  json["trainable_parameters"] = p.trainable;
  json["from_data"] = p.from_data;
  json["steps"] = p.updates;
  json["tokens"] = p.tokens;
  json["flops_per_step"] = p.step.flops;
  json["bytes_per_step"] = p.step.bytes;
  json["seconds_per_step"] = p.update_seconds;
  json["extra_seconds"] = p.extra_seconds;
  json["evaluation_seconds"] = p.evaluation_seconds;
  json["checkpoint_seconds"] = p.checkpoint_seconds;
  json["tokens_per_second"] = p.tokens_per_second;
  json["duration_seconds"] = p.seconds;
  json["fits"] = p.fits();
  Json changes = Json::array();
  for (const Suggestion& s : suggestions) {
    Json settings = Json::object();
    for (const auto& [key, value] : s.settings) settings[key] = value;
    changes.push_back({{"change", s.change()}, {"settings", settings}, {"peak_memory_bytes", s.peak_bytes}, {"tokens_per_second", s.tokens_per_second},
                       {"speed_change_percent", s.speed_change}, {"price", s.price}, {"quality", s.quality}, {"fits", s.fits}});
  }
  json["suggestions"] = changes;
  return dump_json(json);
}

}  // namespace attune::plan
