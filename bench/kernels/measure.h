// Timing on a shared machine: everything runs in turns with a loop that does nothing but arithmetic in registers (or
// nothing but reading memory), and counts as a share of what that loop reached just before and after.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

namespace attune::bench_kernels {

// FLOP/s of all threads together: vdpbf16ps (or, without AVX512-BF16, 0), and 512-bit (or 256-bit) fp32 FMA.
double bf16_peak();
double fp32_peak();
// Bytes/s of all threads reading memory beyond the caches.
double read_bandwidth();
// The same for y += a·x in place: two reads and a write.
double axpy_bandwidth();

struct Sample {
  double rate = 0;   // median over the rounds
  double best = 0;
  double share = 0;  // median of rate / peak of the same round
};

inline double median(std::vector<double> v) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}

// Wall clock; or, where other programs take the processors, processor time by the number of threads (then threads must
// not spin while they wait: GOMP_SPINCOUNT=0, and what the threads wait for each other is not seen).
enum class Clock { wall, processor };
inline Clock clock_used = Clock::wall;
double now();

inline double seconds(const std::function<void()>& run) {
  const double start = now();
  run();
  return now() - start;
}

// `work` units (FLOPs or bytes) in one call of each candidate; candidates alternate, the peak is taken around each.
inline std::vector<Sample> alternate(int rounds, double work, const std::function<double()>& peak,
                                     const std::vector<std::function<void()>>& candidates) {
  // Seconds a candidate runs in one turn; processor time comes in ticks of 10 ms on some machines.
  const double slice = clock_used == Clock::wall ? 0.02 : 0.15;
  std::vector<int> repeats;
  for (const auto& run : candidates) {
    run();
    int n = 1;
    const auto many = [&] { for (int i = 0; i < n; ++i) run(); };
    double time = seconds(many);
    while (time < slice) {
      n = time < slice / 4 ? 2 * n : static_cast<int>(1.2 * n * slice / time) + 1;
      time = seconds(many);
    }
    repeats.push_back(n);
  }
  std::vector<std::vector<double>> rates(candidates.size()), shares(candidates.size());
  double before = peak();
  for (int r = 0; r < rounds; ++r)
    for (size_t c = 0; c < candidates.size(); ++c) {
      const double time = seconds([&] { for (int i = 0; i < repeats[c]; ++i) candidates[c](); });
      const double rate = work * repeats[c] / time, after = peak();
      rates[c].push_back(rate);
      // A round in which the machine changed its speed says nothing.
      if (std::max(before, after) < 1.1 * std::min(before, after)) shares[c].push_back(rate / (0.5 * (before + after)));
      before = after;
    }
  std::vector<Sample> out;
  for (size_t c = 0; c < candidates.size(); ++c)
    out.push_back({median(rates[c]), *std::max_element(rates[c].begin(), rates[c].end()), median(shares[c])});
  return out;
}

}  // namespace attune::bench_kernels
