// Steps over a few made-up samples.
#pragma once

#include "support/fixtures.h"

namespace attune::test {

// Eight samples of different lengths; every second masks its beginning.
inline std::vector<Sample> eight_samples(int vocab) {
  std::vector<Sample> out;
  for (int s = 0; s < 8; ++s) {
    Sample sample;
    for (int j = 0; j < 4 + 3 * s; ++j) {
      sample.ids.push_back((s * 31 + j * j * 7 + j + 1) % vocab);
      sample.weights.push_back(s % 2 && j < 3 ? 0.0f : s == 4 ? 0.5f : 1.0f);
    }
    out.push_back(sample);
  }
  return out;
}

// The samples named by `parts`, one micro-batch a part; ids stay those of the samples.
inline Step split(const std::vector<Sample>& samples, const std::vector<std::vector<int>>& parts) {
  std::vector<MicroBatch> batches;
  for (const auto& part : parts) {
    MicroBatch b;
    for (int i : part) b.add_sequence(i, samples[static_cast<size_t>(i)].ids, samples[static_cast<size_t>(i)].weights, b.groups);
    batches.push_back(b);
  }
  return step_of(std::move(batches));
}

inline train::EngineOptions options_for(const Step& step) {
  train::EngineOptions options;
  options.capacity = capacity_of(step);
  options.micro_batches = static_cast<int64_t>(step.micro_batches.size());
  return options;
}

}  // namespace attune::test
