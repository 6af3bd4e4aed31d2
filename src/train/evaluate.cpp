#include "train/evaluate.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/machine.h"

namespace attune::train {
namespace {

struct Sums {
  double nll = 0, weight = 0;
  int64_t labels = 0, correct = 0;
  void add(const SequenceLoss& s) {
    nll += s.nll;
    weight += s.weight;
    labels += s.labels;
    correct += s.correct;
  }
  void write(Json& json, const std::string& prefix) const {
    const double loss = nll / weight;
    json[prefix + "loss"] = loss;
    json[prefix + "perplexity"] = std::exp(loss);
    json[prefix + "accuracy"] = static_cast<double>(correct) / static_cast<double>(labels);
  }
};

}  // namespace

std::string short_name(const std::string& source) {
  return fs::path(source.substr(0, source.find('#'))).stem().string();
}

std::vector<std::string> metric_names(const data::TokenSet& set) {
  std::vector<std::string> prefixes{"eval_"}, names;
  std::vector<bool> labelled(set.sources().size());
  for (int64_t i = 0; i < set.size(); ++i)
    if (set.weights(i).labels() > 0) labelled[static_cast<size_t>(set.source(i))] = true;
  if (set.sources().size() > 1)
    for (size_t i = 0; i < set.sources().size(); ++i)
      if (labelled[i]) prefixes.push_back("eval_" + short_name(set.sources()[i]) + "_");
  for (const std::string& prefix : prefixes)
    for (const char* name : {"loss", "perplexity", "accuracy"}) names.push_back(prefix + name);
  return names;
}

Json evaluate_set(Engine& engine, const data::Batcher& batches, const data::TokenSet& set) {
  const double begin = seconds_now();
  Sums all;
  std::vector<Sums> each(std::max<size_t>(1, set.sources().size()));
  std::vector<SequenceLoss> losses;
  int64_t steps = 0;
  Step step;
  for (int64_t i = 0; i < batches.steps_in_epoch(0); ++i) {
    batches.make_step(0, i, step);
    for (const MicroBatch& b : step.micro_batches) {
      engine.evaluate(b, losses);
      for (const SequenceLoss& s : losses) {
        all.add(s);
        each[static_cast<size_t>(set.source(s.sample))].add(s);
      }
      ++steps;
    }
  }
  const double seconds = std::max(1e-9, seconds_now() - begin);
  if (all.labels == 0) fail("the validation data has no labelled token");
  if (!std::isfinite(all.nll)) fail("the validation loss is not finite");
  Json json = Json::object();
  all.write(json, "eval_");
  json["eval_tokens"] = all.labels;
  json["eval_samples"] = set.size();
  json["eval_runtime"] = seconds;
  json["eval_samples_per_second"] = static_cast<double>(set.size()) / seconds;
  json["eval_steps_per_second"] = static_cast<double>(steps) / seconds;
  if (each.size() > 1)
    for (size_t i = 0; i < each.size(); ++i) {
      if (each[i].labels == 0) continue;
      std::string prefix = "eval_" + short_name(set.sources()[i]) + "_";
      if (json.contains(prefix + "loss")) prefix += fmt::format("{}_", i + 1);  // two files of one name
      each[i].write(json, prefix);
    }
  return json;
}

Json evaluate_model(models::Decoder& model, const data::TokenSet& set, DType compute, int64_t batch_size) {
  data::BatchingOptions batching;
  batching.micro_batch_size = batch_size;
  batching.shuffle = false;
  const data::Batcher batches(set, batching);
  EngineOptions options;
  options.compute = compute;
  options.eval_capacity = batches.capacity();
  const objectives::CausalLm objective;
  for (const auto& p : model.parameters().all()) p->trainable = false;
  Engine dry(model, objective, options, Arena::Kind::dry, 0);
  dry.dry_run();
  Engine engine(model, objective, options, Arena::Kind::real, dry.arena().high_water());
  return evaluate_set(engine, batches, set);
}

}  // namespace attune::train
