#include "bench/peak.h"

#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <vector>

#include "plan/calibration.h"
#include "util/machine.h"

namespace attune::bench {
namespace {

volatile float sink;

// Enough sums that no instruction waits for the one before it.
constexpr int kSums = 16;

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) float bf16_512(int64_t turns) {
  __m512 sum[kSums];
  for (auto& s : sum) s = _mm512_setzero_ps();
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_set1_epi32(0x3f803f81);
  for (int64_t i = 0; i < turns; ++i) {
#pragma GCC unroll 16
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm512_reduce_add_ps(s);
  return total;
}

__attribute__((target("avx512f"))) float fp32_512(int64_t turns) {
  __m512 sum[kSums];
  for (auto& s : sum) s = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1.01f);
  for (int64_t i = 0; i < turns; ++i) {
#pragma GCC unroll 16
    for (auto& s : sum) s = _mm512_fmadd_ps(a, b, s);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm512_reduce_add_ps(s);
  return total;
}

__attribute__((target("avx2,fma"))) float fp32_256(int64_t turns) {
  __m256 sum[12];
  for (auto& s : sum) s = _mm256_setzero_ps();
  __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1.01f);
  for (int64_t i = 0; i < turns; ++i) {
#pragma GCC unroll 12
    for (auto& s : sum) s = _mm256_fmadd_ps(a, b, s);
    asm volatile("" : "+x"(a), "+x"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm256_cvtss_f32(s);
  return total;
}
#endif

// The best of some slices of `seconds` in all, since whatever else runs now and then takes from the others.
double rate(const RegisterLoop& loop, double seconds) {
  if (!loop.run) return 0;
  constexpr int64_t kTurns = 100'000;
  constexpr int kSlices = 5;
  double best = 0;
  for (int slice = 0; slice < kSlices; ++slice) {
    int64_t turns = 0;
    const double start = seconds_now();
    double end = start;
    while (end - start < seconds / kSlices) {
#pragma omp parallel
      sink = loop.run(kTurns);
      turns += kTurns;
      end = seconds_now();
    }
    best = std::max(best, loop.flops * static_cast<double>(turns) * omp_get_max_threads() / (end - start));
  }
  return best;
}

}  // namespace

RegisterLoop bf16_loop() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return {bf16_512, kSums * 64.0};
#endif
  return {};
}

RegisterLoop fp32_loop() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {fp32_512, kSums * 32.0};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {fp32_256, 12 * 16.0};
#endif
  return {};
}

double bf16_registers(double seconds) { return rate(bf16_loop(), seconds); }
double fp32_registers(double seconds) { return rate(fp32_loop(), seconds); }

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

double axpy_bandwidth() {
  constexpr int64_t kElements = 32 << 20;  // 128 MB each
  std::vector<float> x(kElements), y(kElements);
  std::vector<double> rates;
  for (int round = 0; round < 4; ++round) {
    const double start = seconds_now();
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < kElements; ++i) y[static_cast<size_t>(i)] += 0.5f * x[static_cast<size_t>(i)];
    if (round > 0) rates.push_back(12.0 * kElements / (seconds_now() - start));  // the first touches pages
  }
  sink = y[0];
  return median(rates);
}

double read_bandwidth() {
  const std::vector<uint64_t> memory(size_t{32} << 20, 1);  // sums of integers wait for nothing but memory
  std::vector<double> rates;
  for (int round = 0; round < 3; ++round) {
    uint64_t total = 0;
    const double start = seconds_now();
#pragma omp parallel for simd schedule(static) reduction(+ : total)
    for (size_t i = 0; i < memory.size(); ++i) total += memory[i];
    rates.push_back(8.0 * static_cast<double>(memory.size()) / (seconds_now() - start));
    sink = static_cast<float>(total);
  }
  return median(rates);
}

double matrix_peak(DType compute) {
  constexpr double kSeconds = 0.1;
  const double bf16 = compute == DType::bf16 ? bf16_registers(kSeconds) : 0;
  const double registers = bf16 > 0 ? bf16 : fp32_registers(kSeconds);
  return std::max(registers, plan::measure_pace(compute, 0.1).matrix_flops);
}

}  // namespace attune::bench
