// stages: one after the other, each on the result of the one before. A pipeline can be killed at any moment and continues.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/config.h"

namespace attune::train {

struct PipelineHooks {
  std::function<std::string(const Config&)> run;  // one training; its results as JSON
  // What a stage with adapters has made, into its base: a model directory.
  std::function<void(const Config& stage, const std::string& out)> merge;
};

// `stages` come from load_stages. Leaves pipeline.json beside the stages' directories: what each stage was, how long it took, and
// its validation figures before and after. With resume_from_checkpoint: true finished stages are taken as they are and a
// broken one continues; other settings for a stage that has begun are refused. Returns the content of pipeline.json.
std::string run_pipeline(const std::vector<Config>& stages, const PipelineHooks& hooks);

}  // namespace attune::train
