// How often the samples of several data sets stand in an epoch: worked out once for a run, a function of the seed. The order
// within an epoch is the batcher's; an oversampled sample is an index that stands there several times.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/token_set.h"

namespace attune::data {

struct MixOptions {
  // concat: every sample once. interleave_under: in turns until one data set is at its end. interleave_over: until all have
  // been at their end, beginning anew with those that were. interleave_once: in turns, leaving out those at their end.
  // (LLaMA-Factory's mix_strategy; the first three in the words of datasets.interleave_datasets are concatenation,
  // first_exhausted and all_exhausted.)
  std::string strategy = "concat";
  std::vector<double> probabilities;  // of each data set's turn; empty: strictly in turns
  std::vector<double> weights;        // concat: passes over each data set within an epoch; empty: one
  uint64_t seed = 42;
  bool is_plain() const { return strategy == "concat" && weights.empty(); }
};

// Whose turn number `turn` is, a function of the seed; strictly in turns where `probabilities` is empty. One of 0 has none.
size_t turn_of(uint64_t turn, const std::vector<double>& probabilities, size_t data_sets, uint64_t seed);

// Refuses options that do not fit `data_sets` data sets.
void check_mixing(const MixOptions& options, size_t data_sets);

// "name 1000", one for each data set; a group counts once.
std::vector<std::string> count_by_source(const TokenSet& set);

// Selects. Samples of a group go together.
void mix(TokenSet& set, const MixOptions& options);

}  // namespace attune::data
