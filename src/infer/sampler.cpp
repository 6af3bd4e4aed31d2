#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "util/rng.h"

namespace attune::infer {
namespace {

void penalise(std::span<float> logits, std::span<const int32_t> text, double penalty) {
  std::vector<int32_t> seen(text.begin(), text.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (int32_t id : seen) {
    float& x = logits[static_cast<size_t>(id)];
    x = static_cast<float>(x < 0 ? x * penalty : x / penalty);
  }
}

// The candidates, likeliest first. Those that min-p drops need not be sorted, which with many words is most of the time.
std::vector<int32_t> candidates(std::span<const float> logits, float best, const SampleOptions& o) {
  std::vector<int32_t> order;
  const double least = o.min_p > 0 ? best + o.temperature * std::log(o.min_p) : -INFINITY;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= least || logits[i] == best) order.push_back(static_cast<int32_t>(i));
  const size_t keep = o.top_k > 0 ? std::min(static_cast<size_t>(o.top_k), order.size()) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(keep), order.end(), [logits](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  order.resize(keep);
  return order;
}

}  // namespace

int32_t sample(std::span<float> logits, std::span<const int32_t> text, const SampleOptions& o, const Place& place) {
  if (o.repetition_penalty != 1) penalise(logits, text, o.repetition_penalty);
  const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (o.temperature <= 0) return best;
  const float highest = logits[static_cast<size_t>(best)];
  // top-p is a share of what top-k leaves, before min-p: the sum must see all of it.
  SampleOptions wide = o;
  if (o.top_p < 1) wide.min_p = 0;
  const std::vector<int32_t> order = candidates(logits, highest, wide);
  std::vector<double> p(order.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    sum += p[i] = std::exp((static_cast<double>(logits[static_cast<size_t>(order[i])]) - highest) / o.temperature);
  // The smallest set of likeliest tokens that reaches top_p.
  double reached = 0;
  size_t n = 0;
  while (n < p.size() && (n == 0 || (reached < o.top_p * sum && p[n] >= o.min_p))) reached += p[n++];
  // Text 0 of a job draws what a single text draws.
  const PhiloxBlock word = philox(o.seed, place.position, 0x5A + (place.sample << 8));
  double at = (static_cast<double>(word[0]) + 0.5) * 0x1.0p-32 * reached;
  for (size_t i = 0; i < n; ++i)
    if ((at -= p[i]) <= 0) return order[i];
  return order[n - 1];
}

}  // namespace attune::infer
