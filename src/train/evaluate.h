// The loss of held-out data: during training by its engine, and of a model alone.
#pragma once

#include "train/setup.h"
#include "util/json.h"

namespace attune::train {

// {"eval_loss", "eval_perplexity", "eval_accuracy" (of labelled tokens), "eval_tokens", "eval_samples", "eval_runtime",
// "eval_samples_per_second", "eval_steps_per_second"}; with several data sets also eval_<name>_loss, … of each. Where the
// loss is not one of tokens, the objective's measures ("eval_rewards/accuracies") stand for perplexity and accuracy, and
// for pairs "eval_calibration_error".
Json evaluate_set(Engine& engine, const data::Batcher& batches, const data::TokenSet& set);

// Which of these are figures of the model on `set`, by which the best one can be chosen.
std::vector<std::string> metric_names(const data::TokenSet& set, const objectives::Objective& objective);

// How metrics name a data set: "data/a.jsonl" and "a#500" → "a".
std::string short_name(const std::string& source);

// evaluate_set of a model whose weights are there (real storage, `compute`); it is left untouched.
Json evaluate_model(models::Decoder& model, const data::TokenSet& set, DType compute, int64_t batch_size);

}  // namespace attune::train
