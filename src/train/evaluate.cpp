#include "train/evaluate.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "objectives/causal_lm.h"
#include "util/error.h"
#include "util/machine.h"

namespace attune::train {
namespace {

// Whether a loss is that of tokens, so that perplexity and accuracy mean something.
bool by_token(const objectives::Objective& objective) { return objective.normaliser() == objectives::Normaliser::labelled_weight; }

struct Sums {
  double loss = 0, weight = 0;
  int64_t labels = 0, correct = 0;
  void add(const objectives::Outcome& o) {
    loss += o.loss;
    weight += o.weight;
    labels += o.labels;
    correct += o.correct;
  }
  void write(Json& json, const std::string& prefix, bool tokens) const {
    json[prefix + "loss"] = loss / weight;
    if (!tokens) return;
    json[prefix + "perplexity"] = std::exp(loss / weight);
    json[prefix + "accuracy"] = static_cast<double>(correct) / static_cast<double>(labels);
  }
};

// How far the probability σ(margin) that the chosen answer wins is from how often it does (expected calibration error,
// Naeini et al. 2015): a reward model that is right in 70 % of its pairs should be 70 % sure.
class Calibration {
 public:
  void add(double margin) {
    const double p = 1 / (1 + std::exp(-std::abs(margin)));  // that the answer which it prefers wins: 0.5 … 1
    const auto bin = std::min(kBins - 1, static_cast<size_t>((p - 0.5) * 2 * static_cast<double>(kBins)));
    bins_[bin].sure += p;
    bins_[bin].right += margin > 0;
    ++bins_[bin].count;
    ++count_;
  }
  bool known() const { return count_ > 0; }
  double error() const {
    double sum = 0;
    for (const Bin& b : bins_) sum += std::abs(b.sure - b.right);
    return sum / static_cast<double>(count_);
  }

 private:
  static constexpr size_t kBins = 10;
  struct Bin {
    double sure = 0, right = 0;
    int64_t count = 0;
  };
  std::array<Bin, kBins> bins_{};
  int64_t count_ = 0;
};

}  // namespace

std::string short_name(const std::string& source) {
  return fs::path(source.substr(0, source.find('#'))).stem().string();
}

std::vector<std::string> metric_names(const data::TokenSet& set, const objectives::Objective& objective) {
  std::vector<std::string> prefixes{"eval_"}, names;
  std::vector<std::string> figures{"loss"};
  if (by_token(objective)) figures.insert(figures.end(), {"perplexity", "accuracy"});
  std::vector<bool> labelled(set.sources().size());
  for (int64_t i = 0; i < set.size(); ++i)
    if (set.weights(i).labels() > 0) labelled[static_cast<size_t>(set.source(i))] = true;
  if (set.sources().size() > 1)
    for (size_t i = 0; i < set.sources().size(); ++i)
      if (labelled[i]) prefixes.push_back("eval_" + short_name(set.sources()[i]) + "_");
  for (const std::string& prefix : prefixes)
    for (const std::string& name : figures) names.push_back(prefix + name);
  for (const std::string& name : objective.measure_names()) names.push_back("eval_" + name);
  return names;
}

Json evaluate_set(Engine& engine, const data::Batcher& batches, const data::TokenSet& set) {
  const double begin = seconds_now();
  Sums all;
  std::vector<Sums> each(std::max<size_t>(1, set.sources().size()));
  const bool tokens = by_token(engine.objective());
  std::vector<objectives::Outcome> outcomes;
  objectives::Measures measures(engine.objective().measure_names());
  Calibration calibration;
  int64_t steps = 0;
  Step step;
  for (int64_t i = 0; i < batches.steps_in_epoch(0); ++i) {
    batches.make_step(0, i, step);
    outcomes.clear();
    engine.evaluate(step, outcomes, &measures);
    for (const objectives::Outcome& o : outcomes) {
      all.add(o);
      each[static_cast<size_t>(set.source(o.sample))].add(o);
      if (!std::isnan(o.margin)) calibration.add(o.margin);
    }
    ++steps;
  }
  const double seconds = std::max(1e-9, seconds_now() - begin);
  if (!(all.weight > 0)) fail("the validation data has no labelled token");
  if (!std::isfinite(all.loss)) fail("the validation loss is not finite");
  Json json = Json::object();
  all.write(json, "eval_", tokens);
  for (const objectives::Measures::Entry& m : measures.entries())
    if (m.known()) json["eval_" + m.name] = m.mean();
  if (calibration.known()) json["eval_calibration_error"] = calibration.error();
  if (tokens) json["eval_tokens"] = all.labels;
  json["eval_samples"] = set.groups();  // pairs, not their sides
  json["eval_runtime"] = seconds;
  json["eval_samples_per_second"] = static_cast<double>(set.groups()) / seconds;
  json["eval_steps_per_second"] = static_cast<double>(steps) / seconds;
  if (each.size() > 1)
    for (size_t i = 0; i < each.size(); ++i) {
      if (!(each[i].weight > 0)) continue;
      std::string prefix = "eval_" + short_name(set.sources()[i]) + "_";
      if (json.contains(prefix + "loss")) prefix += fmt::format("{}_", i + 1);  // two files of one name
      each[i].write(json, prefix, tokens);
    }
  return json;
}

Json evaluate_model(models::Decoder& model, const data::TokenSet& set, DType compute, int64_t batch_size) {
  data::BatchingOptions batching;
  batching.micro_batch_size = batch_size;
  batching.shuffle = false;
  const data::Batcher batches(set, batching);
  EngineOptions options;
  options.backend = &ops::backend_of(*model.embedding().device);
  options.compute = compute;
  options.eval_capacity = batches.capacity();
  const objectives::CausalLm objective;
  for (const auto& p : model.parameters().all()) p->trainable = false;
  Engine dry(model, objective, options, Place::dry(), 0);
  dry.dry_run();
  Engine engine(model, objective, options, options.backend->device(), dry.arena().high_water());
  return evaluate_set(engine, batches, set);
}

}  // namespace attune::train
