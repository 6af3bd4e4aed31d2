// Fixture models and small helpers that several rooms' tests share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/load.h"
#include "ops/backend.h"
#include "objectives/causal_lm.h"
#include "train/engine.h"
#include "util/json.h"

namespace attune::test {

inline fs::path fixture(const std::string& name) { return fs::path(ATTUNE_FIXTURES) / name; }

inline std::unique_ptr<models::Decoder> load_model(const fs::path& path, DType dtype = DType::f32) {
  formats::ModelDirectory directory(path);
  auto model = models::declare(directory);
  model->parameters().allocate_weights(Place::host(), dtype);
  if (dtype != DType::f32) model->parameters().allocate_masters(Place::host());
  models::load_weights(*model, directory);
  return model;
}

struct Sample {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// {"ids":[…],"labels":[…]} as the fixtures hold it; −100 masks.
inline Sample sample_of(const Json& json) {
  Sample s;
  s.ids = json["ids"].get<std::vector<int32_t>>();
  for (int label : json["labels"].get<std::vector<int>>()) s.weights.push_back(label == -100 ? 0.0f : 1.0f);
  return s;
}

inline MicroBatch batch_of(const std::vector<Sample>& samples, int64_t first_id = 0) {
  MicroBatch b;
  for (size_t i = 0; i < samples.size(); ++i)
    b.add_sequence(first_id + static_cast<int64_t>(i), samples[i].ids, samples[i].weights, static_cast<int32_t>(i));
  return b;
}

inline Step step_of(std::vector<MicroBatch> batches) {
  Step s;
  s.micro_batches = std::move(batches);
  for (const auto& b : s.micro_batches) {
    s.total_weight += b.total_weight();
    s.total_sequences += b.sequence_count();
    s.total_groups += b.groups;
  }
  return s;
}

inline BatchCapacity capacity_of(const Step& step) {
  BatchCapacity c;
  for (const auto& b : step.micro_batches) {
    c.tokens = std::max(c.tokens, b.token_count());
    c.sequences = std::max(c.sequences, b.sequence_count());
    c.label_rows = std::max<int64_t>(c.label_rows, static_cast<int64_t>(b.label_rows.size()));
    for (size_t i = 0; i + 1 < b.cu_seqlens.size(); ++i)
      c.max_seqlen = std::max<int64_t>(c.max_seqlen, b.cu_seqlens[i + 1] - b.cu_seqlens[i]);
  }
  return c;
}

// An engine with an arena exactly as large as a dry run of the same settings says.
inline std::unique_ptr<train::Engine> make_engine(models::Decoder& model, const objectives::Objective& objective,
                                                  const train::EngineOptions& options) {
  models::Decoder dry_model(model.config());
  if (options.tuning.adapts()) tuning::apply(options.tuning, dry_model);
  for (size_t i = 0; i < model.parameters().all().size(); ++i)
    dry_model.parameters().all()[i]->trainable = model.parameters().all()[i]->trainable;
  dry_model.parameters().allocate_weights(Place::dry(), options.compute);
  const auto& all = model.parameters().all();
  if (std::any_of(all.begin(), all.end(), [](const auto& p) { return p->master.defined(); }))
    dry_model.parameters().allocate_masters(Place::dry());
  train::Engine dry(dry_model, objective, options, Place::dry(), 0);
  dry.dry_run();
  return std::make_unique<train::Engine>(model, objective, options, Place::host(), dry.arena().high_water());
}

inline std::vector<float> floats(const Tensor& t) {
  std::vector<float> out(static_cast<size_t>(t.count()));
  convert(t.data, t.dtype, out.data(), DType::f32, out.size());
  return out;
}

inline std::vector<float> read_tensor(const formats::SafetensorsFile& file, const std::string& name) {
  const auto* info = file.find(name);
  EXPECT_NE(info, nullptr) << name;
  std::vector<float> out(info ? static_cast<size_t>(info->count()) : 0);
  if (info) file.read(*info, DType::f32, out.data());
  return out;
}

// max|a−b| / max|b|
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, scale = 1e-30;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    error = std::max(error, std::abs(static_cast<double>(a[i]) - b[i]));
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
  }
  return error / scale;
}

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(aa * bb + 1e-60);
}

}  // namespace attune::test
