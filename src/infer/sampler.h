// Picks the next token from logits.
#pragma once

#include <cstdint>
#include <span>

namespace attune::infer {

struct SampleOptions {
  double temperature = 0;         // 0: the likeliest token each time
  int64_t top_k = 0;              // 0: all
  double top_p = 1;
  double min_p = 0;               // only tokens with at least this share of the likeliest one's probability
  double repetition_penalty = 1;  // Keskar et al. 2019: logits of tokens that are in the text are divided by it (times it, if negative)
  uint64_t seed = 42;
};

// What a choice is a function of, beside logits and seed: neither the batch nor the order of work is in it.
struct Place {
  uint64_t sample = 0;    // which text of the job
  uint64_t position = 0;  // of the token that is chosen
};

// Greedy at temperature 0 (the lowest id wins a tie); otherwise temperature, then top-k, top-p and min-p, as transformers
// orders them; the penalty comes first. `logits` [vocab] are changed; `text` are the ids so far.
int32_t sample(std::span<float> logits, std::span<const int32_t> text, const SampleOptions& options, const Place& place);

}  // namespace attune::infer
