#include "train/reference.h"

#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "models/load.h"
#include "text/same_tokens.h"
#include "train/content.h"
#include "train/objective_options.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/progress.h"

namespace attune::train {
namespace {

using data::kReferenceLogp;

// What a kill may cost, in seconds.
constexpr double kKeepEvery = 60;

// Steps of the first epoch that the run comes to, and whether it comes to others.
std::pair<int64_t, bool> reach(const RunSetup& s) {
  const int64_t epoch = s.train_batches->steps_in_epoch(0);
  return {std::min(epoch, s.total_steps), s.total_steps > epoch};
}

// What the reference is, as far as it decides what it says of a token.
std::map<std::string, std::string> reference_of(const RunSetup& s) {
  const Config& c = s.config;
  if (!c.ref_model.empty()) {
    formats::ModelDirectory model(c.ref_model);
    return {{"reference", "ref_model " + content_of(model)}};
  }
  std::map<std::string, std::string> out{{"reference", "the model as training begins " + content_of(*s.directory)}};
  std::vector<std::string> adapters;
  for (const std::string& directory : c.adapter_name_or_path) adapters.push_back(content_of_adapter(directory));
  out["adapters"] = fmt::format("{}", fmt::join(adapters, ","));
  if (!s.vocabulary.rows.empty())
    out["new_tokens"] = fmt::format("{} | {} | {} | {}", fmt::join(c.add_tokens, ","), fmt::join(c.add_special_tokens, ","), c.init_special_tokens, c.seed);
  return out;
}

}  // namespace

EngineOptions reference_options(const EngineOptions& run) {
  EngineOptions options;
  options.compute = run.compute;
  options.capacity = run.capacity;
  options.eval_capacity = run.eval_capacity;
  return options;
}

void check_reference(const RunSetup& s) {
  const std::string& path = s.config.ref_model;
  if (path.empty() || !needs_reference(s.config)) return;
  const models::DecoderConfig reference = models::declare(formats::ModelDirectory(path))->config();
  if (reference.num_labels > 0) refuse("ref_model: {} scores sequences; a reference must be a language model", path);
  if (reference.vocab_size < s.architecture.vocab_size)
    refuse("ref_model: {} has a vocabulary of {}, the model that is trained {}; they must share a tokenizer", path, reference.vocab_size, s.architecture.vocab_size);
  if (text::Tokenizer::found_in(path) && !text::same_tokens(*text::Tokenizer::load(path), *s.tokenizer))
    refuse("ref_model: the tokenizer in {} has other tokens than that of the model which is trained: the reference would read other words. Name a model of the same family, "
           "or leave ref_model out (the model as training begins)", path);
}

ReferenceLogps::ReferenceLogps(RunSetup& setup) : setup_(setup), file_(fs::path(setup.config.output_dir) / "reference_logps.safetensors"), reference_(reference_of(setup)) {
  const auto [steps, all] = reach(setup);
  parts_.push_back({setup.train_set.get(), setup.train_batches.get(), "train", true, steps, all});
  if (setup.eval_batches) parts_.push_back({setup.eval_set.get(), setup.eval_batches.get(), "eval", false, setup.eval_batches->steps_in_epoch(0), false});
  for (Part& p : parts_)
    for (int64_t i = 0; i < p.set->size(); ++i) p.set->set_side(kReferenceLogp, i, NAN);
  load();
}

// Files of this run alone: another reference or other data begins anew.
std::map<std::string, std::string> ReferenceLogps::identity() const {
  std::map<std::string, std::string> id = reference_;
  id["format"] = "attune reference log-probabilities 2";
  id["compute"] = name_of(setup_.engine.compute);
  id["quantization"] = text_of(setup_.config.ref_model.empty() ? setup_.engine.tuning.quantization : Quantization{});
  for (const Part& p : parts_) id[p.name] = p.set->fingerprint();
  return id;
}

void ReferenceLogps::load() try {
  if (!fs::exists(file_)) return;
  const formats::SafetensorsFile file(file_);
  for (const auto& [key, value] : reference_) changed_ |= !file.metadata().contains(key) || file.metadata().at(key) != value;
  if (file.metadata() != identity()) return;
  for (Part& p : parts_) {
    const formats::TensorInfo* info = file.find(p.name);
    if (!info || info->shape != std::vector<int64_t>{p.set->size()}) continue;
    std::vector<float> values(static_cast<size_t>(p.set->size()));
    file.read(*info, DType::f32, values.data());
    for (int64_t i = 0; i < p.set->size(); ++i) p.set->set_side(kReferenceLogp, i, values[static_cast<size_t>(i)]);
  }
} catch (const Error& error) {
  warn("the log-probabilities of the reference that are kept cannot be used: {}", error.what());
}

void ReferenceLogps::store() const {
  std::vector<std::vector<float>> values;
  std::vector<formats::TensorSource> sources;
  for (const Part& p : parts_) {
    values.emplace_back();
    for (int64_t i = 0; i < p.set->size(); ++i) values.back().push_back(p.set->side(kReferenceLogp, i));
    sources.push_back({p.name, {p.set->size()}, values.back().data(), DType::f32, DType::f32});
  }
  const fs::path temporary = file_.string() + ".tmp";
  formats::write_safetensors(temporary, sources, identity());
  fs::rename(temporary, file_);
}

// f(batch, training) for every micro-batch that holds a sample which is not known yet.
template <class F>
void ReferenceLogps::for_each_missing(F&& f) const {
  Step step;
  const auto known = [](const Part& p, const MicroBatch& b) {
    for (int64_t sample : b.sequence_samples)
      if (std::isnan(p.set->side(kReferenceLogp, sample))) return false;
    return true;
  };
  const bool probes = setup_.objective->look_ahead() == objectives::LookAhead::probes;
  for (const Part& p : parts_) {
    for (int64_t i = 0; i < p.steps; ++i) {
      p.batches->make_step(0, i, step);
      for (const MicroBatch& b : step.micro_batches)
        if (!known(p, b)) f(p, b);
      if (!probes) continue;
      for (const MicroBatch& b : step.probes)
        if (!known(p, b)) f(p, b);
    }
    if (!p.later_epochs) continue;
    // What the first epoch leaves out (dataloader_drop_last) may come in another.
    std::vector<float> weights;
    for (int64_t i = 0; i < p.set->size(); ++i) {
      const bool probe = setup_.config.row_kind() == data::RowKind::judged && i % 2 == 1;
      if (!std::isnan(p.set->side(kReferenceLogp, i)) || (probe && !probes)) continue;
      MicroBatch alone;
      p.set->weights(i).copy_to(weights);
      alone.add_sequence(i, p.set->ids(i), weights, 0);
      f(p, alone);
    }
  }
}

bool ReferenceLogps::missing() const {
  bool any = false;
  for_each_missing([&](const Part&, const MicroBatch&) { any = true; });
  return any;
}

void ReferenceLogps::fill(Engine& engine) {
  const double begin = seconds_now();
  double kept = begin;
  int64_t total = 0, done = 0, tokens = 0;
  for_each_missing([&](const Part&, const MicroBatch&) { ++total; });
  Progress progress("reference", total);
  std::vector<objectives::SequenceLogp> sequences;
  for_each_missing([&](const Part& p, const MicroBatch& b) {
    engine.measure_sequences(b, p.training, sequences);
    for (size_t s = 0; s < sequences.size(); ++s) {
      if (!std::isfinite(sequences[s].logp))
        fail("the reference model gives an answer a log-probability that is not finite: {}. Is the model damaged?", p.set->where(b.sequence_samples[s]));
      p.set->set_side(kReferenceLogp, b.sequence_samples[s], static_cast<float>(sequences[s].logp));
    }
    tokens += b.token_count();
    if (seconds_now() - kept > kKeepEvery) store(), kept = seconds_now();
    progress.update(++done, fmt::format("{:.0f} tokens/s", static_cast<double>(tokens) / std::max(1e-9, seconds_now() - begin)));
  });
  store();
  info("reference: log-probabilities of {} tokens in {:.1f} s ({})", tokens, seconds_now() - begin, file_.string());
}

void ReferenceLogps::fill_with(const std::string& path) {
  formats::ModelDirectory directory(path);
  auto model = models::declare(directory);
  const EngineOptions options = reference_options(setup_.engine);
  for (const auto& p : model->parameters().all()) p->trainable = false;
  const auto engine_of = [&](models::Decoder& m, Place place, uint64_t bytes) {
    m.parameters().allocate_weights(place, options.compute);
    return std::make_unique<Engine>(m, *setup_.objective, options, place, bytes);
  };
  models::Decoder shape(model->config());
  for (const auto& p : shape.parameters().all()) p->trainable = false;
  const auto dry = engine_of(shape, Place::dry(), 0);
  dry->dry_run();
  const auto engine = engine_of(*model, options.backend->device(), dry->arena().high_water());
  models::load_weights(*model, directory);
  fill(*engine);
}

}  // namespace attune::train
