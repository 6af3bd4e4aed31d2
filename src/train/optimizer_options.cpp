#include "train/optimizer_options.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <set>

#include "util/error.h"

namespace attune::train {
namespace {

// optim without what says how its updates are made.
std::string plain(std::string name) {
  if (name.ends_with("_layerwise")) name.resize(name.size() - std::string("_layerwise").size());
  return name;
}

bool is_8bit_adamw(const std::string& optim) { return optim == "adamw_8bit" || optim == "adamw_bnb_8bit" || optim == "paged_adamw_8bit"; }
bool is_adamw(const std::string& optim) { return optim.starts_with("adamw") && !is_8bit_adamw(optim); }

// The optimizer's name in optim::Optimizer.
std::string rule_of(const Config& c) {
  const std::string name = plain(c.optim);
  if (c.use_muon) return "muon";
  if (c.use_apollo || name == "apollo_adamw") return "apollo";
  if (name == "galore_adamw_8bit" || (c.use_galore && is_8bit_adamw(name))) return "galore_8bit";
  if (c.use_galore || name == "galore_adamw") return "galore";
  if (is_8bit_adamw(name)) return "adamw_8bit";
  if (is_adamw(name)) return "adamw";
  if (name == "lion_8bit" || name == "paged_lion_8bit") return "lion_8bit";
  if (name == "lion_32bit") return "lion";
  return name;
}

// One argument of optim_args, read as what it must be.
struct Argument {
  const std::string &name, &value;

  bool flag() const {
    if (value == "true" || value == "True") return true;
    if (value == "false" || value == "False") return false;
    refuse("optim_args: {} must be true or false, not \"{}\"", name, value);
  }
  float real(double low, double high) const {
    double x = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
    if (error != std::errc() || end != value.data() + value.size()) refuse("optim_args: {} must be a number, not \"{}\"", name, value);
    if (!(x >= low && x <= high)) refuse("optim_args: {} is {}; expected {} to {}", name, value, low, high);
    return static_cast<float>(x);
  }
  int64_t whole(int64_t high) const {
    const float x = real(1, static_cast<double>(high));
    if (x != std::floor(x)) refuse("optim_args: {} must be a whole number, not \"{}\"", name, value);
    return static_cast<int64_t>(x);
  }
  std::string one_of(const std::set<std::string>& known) const {
    if (!known.count(value)) refuse("optim_args: {} is \"{}\"; known are {}", name, value, fmt::join(known, ", "));
    return value;
  }
};

const std::set<std::string> kSides{"std", "reverse_std", "right", "left"};

bool set_low_rank(optim::LowRankOptions& o, const Argument& a, bool apollo) {
  if (a.name == "rank") o.rank = a.whole(1 << 20);
  else if (a.name == "update_proj_gap") o.update_gap = a.whole(1 << 24);
  else if (a.name == "scale") o.scale = a.real(1e-6, 1e6);
  else if (a.name == "proj_type") o.side = a.one_of(kSides);
  else if (apollo && a.name == "proj") o.random = a.one_of({"random", "svd"}) == "random";
  else if (apollo && a.name == "scale_type") o.scale_type = a.one_of({"channel", "tensor"});
  else if (apollo && a.name == "scale_front") o.scale_front = a.flag();
  else return false;
  return true;
}

bool set_muon(optim::MuonOptions& o, const Argument& a) {
  if (a.name == "momentum") o.momentum = a.real(0, 0.9999);
  else if (a.name == "nesterov") o.nesterov = a.flag();
  else if (a.name == "ns_steps") o.steps = a.whole(99);
  else if (a.name == "eps") o.eps = a.real(1e-20, 1);
  else if (a.name == "adjust_lr_fn") o.adjust_lr = a.one_of({"original", "match_rms_adamw", "spectral_unclamped"});
  else return false;
  return true;
}

bool set_argument(optim::OptimizerOptions& o, const Argument& a) {
  if (o.name == "apollo" || o.name == "galore" || o.name == "galore_8bit") return set_low_rank(o.low_rank, a, o.name == "apollo");
  if (o.name == "muon") return set_muon(o.muon, a);
  const bool factored = o.name == "adafactor" || o.name == "adalomo";
  if ((o.name == "adam" || o.name == "adamw") && a.name == "amsgrad") o.amsgrad = a.flag();
  else if (o.name == "sgd" && a.name == "momentum") o.momentum = a.real(0, 0.9999);
  else if (o.name == "sgd" && a.name == "nesterov") o.nesterov = a.flag();
  else if (o.name == "adafactor" && a.name == "scale_parameter") o.scale_parameter = a.flag();
  else if (factored && a.name == "clip_threshold") o.clip_threshold = a.real(1e-6, 1e6);
  else if (factored && a.name == "decay_rate") o.decay_rate = a.real(-10, 0);
  else return false;
  return true;
}

// LLaMA-Factory's keys, and Hugging Face's where those are not used.
void set_projection(optim::OptimizerOptions& o, const Config& c) {
  optim::LowRankOptions& l = o.low_rank;
  o.targets = c.optim_target_modules;
  l.scale = o.name == "apollo" ? 1.0f : 0.25f;
  if (c.use_galore) {
    o.targets = c.galore_target;
    l.rank = c.galore_rank, l.update_gap = c.galore_update_interval, l.scale = static_cast<float>(c.galore_scale), l.side = c.galore_proj_type;
  } else if (c.use_apollo) {
    o.targets = c.apollo_target;
    l.rank = c.apollo_rank, l.update_gap = c.apollo_update_interval, l.scale = static_cast<float>(c.apollo_scale), l.side = c.apollo_proj_type;
    l.random = c.apollo_proj == "random", l.scale_type = c.apollo_scale_type, l.scale_front = c.apollo_scale_front;
  }
  if (o.targets.size() == 1 && (o.targets[0] == "all" || o.targets[0] == "all-linear" || o.targets[0] == "all_linear")) o.targets.clear();
  if (c.use_muon) o.muon.adjust_lr = "match_rms_adamw";
}

}  // namespace

optim::OptimizerOptions optimizer_options(const Config& c) {
  optim::OptimizerOptions o;
  o.name = rule_of(c);
  o.beta1 = static_cast<float>(c.adam_beta1);
  o.beta2 = static_cast<float>(c.adam_beta2);
  o.eps = static_cast<float>(c.adam_epsilon);
  o.weight_decay = static_cast<float>(c.weight_decay);
  o.anchor_decay = static_cast<float>(c.l2_to_base);
  o.state_dtype = c.pure_bf16 ? DType::bf16 : DType::f32;
  o.seed = static_cast<uint64_t>(c.seed);
  set_projection(o, c);
  for (const auto& [name, value] : c.optim_args)
    if (!set_argument(o, {name, value}))
      refuse("optim_args: {} knows no \"{}\"; known are amsgrad (adam, adamw), momentum and nesterov (sgd, muon), scale_parameter, "
             "clip_threshold and decay_rate (adafactor), rank, update_proj_gap, scale and proj_type (galore, apollo), proj, scale_type "
             "and scale_front (apollo), ns_steps, eps and adjust_lr_fn (muon)", o.name, name);
  return o;
}

void check_optimizer(const Config& c) {
  if (c.use_galore + c.use_apollo + c.use_muon > 1)
    refuse("use_galore, use_apollo and use_muon exclude each other: each is an optimizer of its own; choose one");
  const auto needs = [&](bool wanted, const char* key, bool fits, const char* names) {
    if (wanted && !fits) refuse("{} and optim: {} contradict each other: {} builds on {}. Leave one of them out", key, c.optim, key, names);
  };
  needs(c.use_galore, "use_galore", is_adamw(c.optim) || is_8bit_adamw(c.optim), "adamw_torch or adamw_8bit");
  needs(c.use_apollo, "use_apollo", is_adamw(c.optim), "adamw_torch");
  needs(c.use_muon, "use_muon", is_adamw(c.optim), "adamw_torch, which steps what is not a hidden matrix");
  const bool projects = c.optim.starts_with("galore") || c.optim.starts_with("apollo") || c.optim == "muon";
  if (!c.optim_target_modules.empty() && !projects)
    refuse("optim_target_modules belongs to optim: galore_adamw, apollo_adamw or muon, not {}{}", c.optim,
           c.use_galore ? "; with use_galore it is galore_target" : c.use_apollo ? "; with use_apollo it is apollo_target" : "");
  optimizer_options(c);
}

bool implies_update_in_backward(const Config& c) {
  return c.optim == "lomo" || c.optim == "adalomo" || c.optim.ends_with("_layerwise") || (c.use_galore && c.galore_layerwise) ||
         (c.use_apollo && c.apollo_layerwise);
}

}  // namespace attune::train
