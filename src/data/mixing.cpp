#include "data/mixing.h"

#include <algorithm>
#include <cmath>

#include "data/order.h"
#include "util/error.h"
#include "util/rng.h"

namespace attune::data {
namespace {

// Nobody means an epoch that is this many times the data.
constexpr int64_t kMostGrowth = 1000;

// The groups of one data set in an order of its own, so that taking some of them takes a fair choice.
struct Pool {
  std::vector<int64_t> groups;
  Permutation order{1, 0, 0};
  int64_t at(int64_t i) const { return groups[static_cast<size_t>(order[i])]; }
  int64_t size() const { return static_cast<int64_t>(groups.size()); }
};

std::vector<int64_t> by_weight(const std::vector<Pool>& pools, const MixOptions& options) {
  std::vector<int64_t> out;
  for (size_t s = 0; s < pools.size(); ++s) {
    const Pool& pool = pools[s];
    const auto total = static_cast<int64_t>(std::llround(options.weights[s] * static_cast<double>(pool.size())));
    for (int64_t i = 0; i < total; ++i) out.push_back(pool.at(i % pool.size()));
  }
  // In the order of the data, as without weights.
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<int64_t> in_turns(const std::vector<Pool>& pools, const MixOptions& options, int64_t groups) {
  const bool under = options.strategy == "interleave_under", once = options.strategy == "interleave_once";
  std::vector<int64_t> next(pools.size(), 0), out;
  std::vector<bool> exhausted(pools.size(), false);
  for (uint64_t number = 0;; ++number) {
    // A turn of strict alternation is a round: it ends when everybody had its turn.
    const bool done = under ? std::any_of(exhausted.begin(), exhausted.end(), [](bool e) { return e; })
                            : std::all_of(exhausted.begin(), exhausted.end(), [](bool e) { return e; });
    if (done && (!options.probabilities.empty() || once || number % pools.size() == 0)) break;
    if (static_cast<int64_t>(number) > kMostGrowth * groups)
      refuse("interleave_probs: one epoch would take more than {} draws for each sample; a data set is drawn too seldom", kMostGrowth);
    const size_t s = turn_of(number, options.probabilities, pools.size(), options.seed);
    if (once && exhausted[s]) continue;
    if (next[s] == pools[s].size()) next[s] = 0;
    out.push_back(pools[s].at(next[s]++));
    if (next[s] == pools[s].size()) exhausted[s] = true;
  }
  return out;
}

}  // namespace

size_t turn_of(uint64_t turn, const std::vector<double>& probabilities, size_t data_sets, uint64_t seed) {
  if (probabilities.empty()) return static_cast<size_t>(turn % data_sets);
  double sum = 0, u = uniform_float(philox(mix_key(seed, 0x317), turn, 0)[0]);
  for (double p : probabilities) sum += p;
  u *= sum;
  size_t last = 0;
  for (size_t s = 0; s < data_sets; ++s) {
    if (probabilities[s] == 0) continue;
    last = s;
    if ((u -= probabilities[s]) < 0) break;
  }
  return last;
}

void check_mixing(const MixOptions& options, size_t data_sets) {
  const auto check = [&](const std::vector<double>& numbers, const char* key) {
    if (numbers.empty()) return;
    if (numbers.size() != data_sets) refuse("{}: {} numbers for {} data sets; expected one for each in `dataset`", key, numbers.size(), data_sets);
    for (double x : numbers)
      if (!(x > 0) || x > 1000) refuse("{}: {} is not between 0 and 1000; leave a data set out of `dataset` instead of giving it 0", key, x);
  };
  check(options.probabilities, "interleave_probs");
  check(options.weights, "dataset_weights");
  if (options.strategy == "concat" && !options.probabilities.empty()) refuse("interleave_probs needs mix_strategy: interleave_under, interleave_over or interleave_once");
  if (options.strategy != "concat" && !options.weights.empty()) refuse("dataset_weights needs mix_strategy: concat; with {} use interleave_probs", options.strategy);
}

std::vector<std::string> count_by_source(const TokenSet& set) {
  std::vector<int64_t> counts(set.sources().size(), 0);
  for (int64_t i = 0; i < set.size(); i += set.group_size()) ++counts[static_cast<size_t>(set.source(i))];
  std::vector<std::string> out;
  for (size_t s = 0; s < counts.size(); ++s) out.push_back(fmt::format("{} {}", set.sources()[s], counts[s]));
  return out;
}

void mix(TokenSet& set, const MixOptions& options) {
  if (options.is_plain()) return;
  std::vector<Pool> pools(set.sources().size());
  check_mixing(options, pools.size());
  const int64_t groups = set.groups();
  for (int64_t g = 0; g < groups; ++g) pools[static_cast<size_t>(set.source(g * set.group_size()))].groups.push_back(g);
  for (size_t s = 0; s < pools.size(); ++s) {
    if (pools[s].groups.empty()) refuse("dataset: no sample of \"{}\" is left to mix", set.sources()[s]);
    pools[s].order = Permutation(pools[s].size(), mix_key(options.seed, s), 0x3C);
  }
  const std::vector<int64_t> chosen = options.strategy == "concat" ? by_weight(pools, options) : in_turns(pools, options, groups);
  if (chosen.empty()) refuse("dataset_weights: nothing is left of {} samples", groups);
  set.select(chosen);
}

}  // namespace attune::data
