#include "optim/schedule.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "util/error.h"

namespace attune::optim {
namespace {

// Beyond, counts of updates overflow and cosines are no numbers.
constexpr double kMostArgument = 1e12;

double ratio(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(std::max<int64_t>(1, b)); }

double cosine(double progress, double cycles) { return 0.5 * (1.0 + std::cos(M_PI * cycles * 2.0 * progress)); }

double between(double factor, double least) { return std::max(0.0, factor * (1 - least) + least); }

}  // namespace

struct Schedule::Kind {
  std::string name;
  std::vector<std::string> arguments;
  Factor factor;
  bool warms_up = true;  // linearly from 0
};

const std::vector<Schedule::Kind>& Schedule::kinds() {
  static const std::vector<Kind> all{
      {"linear", {}, [](const Schedule& s, int64_t step) {
         return std::max(0.0, ratio(s.options_.total_steps - step, s.options_.total_steps - s.options_.warmup_steps));
       }},
      {"cosine", {"num_cycles"}, [](const Schedule& s, int64_t step) {
         return std::max(0.0, cosine(s.progress(step), s.number("num_cycles", 0.5)));
       }},
      {"cosine_with_restarts", {"num_cycles"}, [](const Schedule& s, int64_t step) {
         const double p = s.progress(step);
         return p >= 1 ? 0.0 : std::max(0.0, 0.5 * (1.0 + std::cos(M_PI * std::fmod(s.number("num_cycles", 1) * p, 1.0))));
       }},
      {"cosine_with_min_lr", {"min_lr", "min_lr_rate", "num_cycles"}, [](const Schedule& s, int64_t step) {
         const double least = s.number("min_lr_rate", s.options_.peak > 0 ? s.number("min_lr", 0) / s.options_.peak : 0);
         return between(cosine(s.progress(step), s.number("num_cycles", 0.5)), least);
       }},
      {"polynomial", {"lr_end", "power"}, [](const Schedule& s, int64_t step) {
         const double end = s.number("lr_end", 1e-7) / s.options_.peak;
         if (step > s.options_.total_steps) return end;
         return (1 - end) * std::pow(std::max(0.0, 1 - s.progress(step)), s.number("power", 1)) + end;
       }},
      {"inverse_sqrt", {"timescale"}, [](const Schedule& s, int64_t step) {
         const auto warmup = static_cast<double>(s.options_.warmup_steps);
         const double timescale = s.number("timescale", warmup > 0 ? warmup : 10000);
         return 1.0 / std::sqrt(std::max(1e-12, (static_cast<double>(step) + timescale - warmup) / timescale));
       }},
      {"warmup_stable_decay", {"num_decay_steps", "num_stable_steps", "min_lr_ratio", "warmup_type", "decay_type", "num_cycles"},
       [](const Schedule& s, int64_t step) {
         const double least = s.number("min_lr_ratio", 0);
         const auto shape = [&](const std::string& type, double p) {
           return type == "linear" ? p : type == "cosine" ? 0.5 * (1.0 - std::cos(M_PI * p)) : 1.0 - std::sqrt(1.0 - p);
         };
         const int64_t warmup = s.options_.warmup_steps, total = s.options_.total_steps;
         if (step < warmup) return between(shape(s.text("warmup_type", "linear"), ratio(step, warmup)), least);
         const auto decay = static_cast<int64_t>(s.number("num_decay_steps", std::ceil(0.1 * static_cast<double>(total))));
         const auto stable = static_cast<int64_t>(s.number("num_stable_steps", static_cast<double>(std::max<int64_t>(0, total - warmup - decay))));
         if (step < warmup + stable) return 1.0;
         if (step >= warmup + stable + decay) return least;
         const double p = ratio(step - warmup - stable, decay);
         const std::string type = s.text("decay_type", "cosine");
         const double falling = type == "linear" ? 1 - p : type == "cosine" ? cosine(p, s.number("num_cycles", 0.5)) : 1 - std::sqrt(p);
         return between(falling, least);
       }, false},
      {"step", {"step_size", "gamma", "per"}, [](const Schedule& s, int64_t step) {
         int64_t passed = step;
         if (s.text("per", "epoch") == "epoch")
           passed = std::upper_bound(s.options_.epoch_ends.begin(), s.options_.epoch_ends.end(), step) - s.options_.epoch_ends.begin();
         return std::pow(s.number("gamma", 0.1), std::floor(static_cast<double>(passed) / s.number("step_size", 1)));
       }},
      {"constant", {}, [](const Schedule&, int64_t) { return 1.0; }, false},
      {"constant_with_warmup", {}, [](const Schedule&, int64_t) { return 1.0; }}};
  return all;
}

const std::vector<std::string>& Schedule::names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (const Kind& k : kinds()) names.push_back(k.name);
    return names;
  }();
  return all;
}

Schedule::Schedule(const ScheduleOptions& options) : options_(options) {
  const auto it = std::find_if(kinds().begin(), kinds().end(), [&](const Kind& k) { return k.name == options.name; });
  if (it == kinds().end())
    refuse("lr_scheduler_type: \"{}\" is not supported; known are {}", options.name, fmt::join(names(), ", "));
  kind_ = &*it;
  for (const auto& [name, value] : options.arguments) {
    if (std::find(kind_->arguments.begin(), kind_->arguments.end(), name) == kind_->arguments.end())
      refuse("lr_scheduler_kwargs: {} knows no \"{}\"; {}", options.name, name,
             kind_->arguments.empty() ? "it has no arguments" : fmt::format("it knows {}", fmt::join(kind_->arguments, ", ")));
    if (name.ends_with("_type") || name == "per") {
      const std::vector<std::string> known = name == "per" ? std::vector<std::string>{"epoch", "step"}
                                                           : std::vector<std::string>{"linear", "cosine", "1-sqrt"};
      if (std::find(known.begin(), known.end(), value) == known.end())
        refuse("lr_scheduler_kwargs: {} \"{}\" is not supported; known are {}", name, value, fmt::join(known, ", "));
      continue;
    }
    double x = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
    if (error != std::errc() || end != value.data() + value.size() || !(x >= 0 && x <= kMostArgument))
      refuse("lr_scheduler_kwargs: {} must be a number from 0 to {}, not \"{}\"", name, kMostArgument, value);
    if ((name == "step_size" || name == "timescale") && x <= 0) refuse("lr_scheduler_kwargs: {} must be above 0", name);
    numbers_[name] = x;
  }
  if (numbers_.count("min_lr") && numbers_.count("min_lr_rate")) refuse("lr_scheduler_kwargs: min_lr and min_lr_rate exclude each other");
  if (options.name == "polynomial" && options.peak > 0 && number("lr_end", 1e-7) >= options.peak)
    refuse("lr_scheduler_kwargs: lr_end ({}) must be smaller than learning_rate ({})", number("lr_end", 1e-7), options.peak);
}

double Schedule::number(const std::string& argument, double fallback) const {
  const auto it = numbers_.find(argument);
  return it == numbers_.end() ? fallback : it->second;
}

std::string Schedule::text(const std::string& argument, const std::string& fallback) const {
  const auto it = options_.arguments.find(argument);
  return it == options_.arguments.end() ? fallback : it->second;
}

double Schedule::progress(int64_t step) const {
  return ratio(step - options_.warmup_steps, options_.total_steps - options_.warmup_steps);
}

double Schedule::learning_rate(int64_t step) const {
  if (options_.peak == 0) return 0;
  if (kind_->warms_up && step < options_.warmup_steps) return options_.peak * ratio(step, options_.warmup_steps);
  return options_.peak * kind_->factor(*this, step);
}

}  // namespace attune::optim
