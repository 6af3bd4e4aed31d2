// Answers to the first validation prompts at each evaluation, so that one can read what a run is learning.
#pragma once

#include <string>
#include <vector>

#include "infer/session.h"
#include "train/setup.h"
#include "util/files.h"

namespace attune::train {

// output_dir/generated_samples.jsonl: {step, prompt, predict, label}, a line a sample and evaluation. The prompt is what
// stands before the first labelled token, the label what is learnt there; where all of a text is learnt, its first half is
// the prompt. Greedy, with the weights as the engine computes with them; of the model nothing changes but the length of its
// position tables. Memory is taken for each evaluation and given back.
class GenerationSamples {
 public:
  GenerationSamples(const RunSetup& setup, bool resumed);
  // A resumed run: lines of evaluations behind `step` go.
  void restore(int64_t step) const;
  // A failure is a warning: samples are not worth a run.
  void write(models::Decoder& model, int64_t step) const;

 private:
  const RunSetup& setup_;
  fs::path file_;
  infer::GenerateOptions options_;
  std::vector<infer::Prompt> prompts_;
  std::vector<std::vector<int32_t>> labels_;
};

// Bytes that samples take beside the engine's, at most; 0 where none are asked for. `model` may be dry.
uint64_t generation_sample_bytes(const RunSetup& setup, models::Decoder& model);

}  // namespace attune::train
