#include "measure.h"

#include <immintrin.h>
#include <omp.h>

#include <ctime>

#include "bench/peak.h"

namespace attune::bench_kernels {
namespace {

__attribute__((target("avx2,fma"))) void axpy(const float* x, float* y, size_t n) {
  const __m256 a = _mm256_set1_ps(1e-3f);
  for (size_t i = 0; i < n; i += 8) _mm256_storeu_ps(y + i, _mm256_fmadd_ps(a, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
}

volatile float sink;

double peak(const bench::RegisterLoop& loop) {
  if (!loop.run) return 0;
  const int64_t turns = clock_used == Clock::wall ? 1'500'000 : 12'000'000;  // 10 ms; more than a tick of the clock
  const double time = seconds([&] {
#pragma omp parallel
    sink = loop.run(turns);
  });
  return loop.flops * static_cast<double>(turns) * omp_get_max_threads() / time;
}

}  // namespace

double now() {
  timespec t{};
  clock_gettime(clock_used == Clock::wall ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &t);
  return (static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec)) / (clock_used == Clock::wall ? 1 : omp_get_max_threads());
}

double bf16_peak() { return peak(bench::bf16_loop()); }
double fp32_peak() { return peak(bench::fp32_loop()); }

double read_bandwidth() {
  static const std::vector<uint64_t> memory(size_t{32} << 20, 1);  // 256 MB; sums of integers wait for nothing but memory
  const int times = clock_used == Clock::wall ? 1 : 12;
  uint64_t total = 0;
  const double time = seconds([&] {
    for (int t = 0; t < times; ++t) {
#pragma omp parallel for simd schedule(static) reduction(+ : total)
      for (size_t i = 0; i < memory.size(); ++i) total += memory[i];
    }
  });
  sink = static_cast<float>(total);
  return times * static_cast<double>(memory.size()) * 8 / time;
}

double axpy_bandwidth() {
  static const std::vector<float> x(size_t{32} << 20, 1.0f);  // 128 MB each
  static std::vector<float> y(x.size(), 1.0f);
  const int times = clock_used == Clock::wall ? 1 : 8;
  const double time = seconds([&] {
    for (int t = 0; t < times; ++t) {
#pragma omp parallel
      {
        const size_t part = x.size() / static_cast<size_t>(omp_get_num_threads()) / 8 * 8;
        axpy(x.data() + part * static_cast<size_t>(omp_get_thread_num()), y.data() + part * static_cast<size_t>(omp_get_thread_num()), part);
      }
    }
  });
  return times * static_cast<double>(x.size()) * 12 / time;
}

}  // namespace attune::bench_kernels
