#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "util/rng.h"

namespace attune::infer {

int32_t sample(const float* logits, int64_t vocab, double temperature, int64_t top_k, double top_p, uint64_t seed, uint64_t position) {
  const auto best = static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  if (temperature <= 0) return best;
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const size_t keep = top_k > 0 ? static_cast<size_t>(std::min(top_k, vocab)) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(keep), order.end(),
                    [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  order.resize(keep);
  std::vector<double> p(keep);
  double sum = 0;
  for (size_t i = 0; i < keep; ++i) sum += p[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[best]) / temperature);
  // The smallest set of likeliest tokens that reaches top_p.
  double reached = 0;
  size_t n = 0;
  while (n < keep && (n == 0 || reached < top_p * sum)) reached += p[n++];
  const PhiloxBlock word = philox(seed, position, 0x5A);
  double at = (static_cast<double>(word[0]) + 0.5) * 0x1.0p-32 * reached;
  for (size_t i = 0; i < n; ++i)
    if ((at -= p[i]) <= 0) return order[i];
  return order[n - 1];
}

}  // namespace attune::infer
