#include "measure.h"

#include <immintrin.h>
#include <omp.h>

#include <ctime>

namespace attune::bench {
namespace {

constexpr int kSums = 16;

__attribute__((target("avx512f,avx512bf16"))) float bf16_loop(int64_t n) {
  __m512 sum[kSums];
  for (auto& s : sum) s = _mm512_setzero_ps();
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_set1_epi32(0x3f803f81);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 16
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm512_reduce_add_ps(s);
  return total;
}

__attribute__((target("avx512f"))) float fp32_loop512(int64_t n) {
  __m512 sum[kSums];
  for (auto& s : sum) s = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1.01f);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 16
    for (auto& s : sum) s = _mm512_fmadd_ps(a, b, s);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm512_reduce_add_ps(s);
  return total;
}

__attribute__((target("avx2,fma"))) float fp32_loop256(int64_t n) {
  __m256 sum[12];
  for (auto& s : sum) s = _mm256_setzero_ps();
  __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1.01f);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (auto& s : sum) s = _mm256_fmadd_ps(a, b, s);
    asm volatile("" : "+x"(a), "+x"(b));
  }
  float total = 0;
  for (auto& s : sum) total += _mm256_cvtss_f32(s);
  return total;
}

__attribute__((target("avx2,fma"))) void axpy(const float* x, float* y, size_t n) {
  const __m256 a = _mm256_set1_ps(1e-3f);
  for (size_t i = 0; i < n; i += 8) _mm256_storeu_ps(y + i, _mm256_fmadd_ps(a, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
}

volatile float sink;

double peak(float (*loop)(int64_t), double flops_a_turn) {
  const int64_t turns = clock_used == Clock::wall ? 1'500'000 : 12'000'000;  // 10 ms; more than a tick of the clock
  const double time = seconds([&] {
#pragma omp parallel
    sink = loop(turns);
  });
  return flops_a_turn * turns * omp_get_max_threads() / time;
}

}  // namespace

double now() {
  timespec t{};
  clock_gettime(clock_used == Clock::wall ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &t);
  return (static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec)) / (clock_used == Clock::wall ? 1 : omp_get_max_threads());
}

double bf16_peak() { return __builtin_cpu_supports("avx512bf16") ? peak(bf16_loop, kSums * 64.0) : 0; }
double fp32_peak() {
  return __builtin_cpu_supports("avx512f") ? peak(fp32_loop512, kSums * 32.0) : peak(fp32_loop256, 12 * 16.0);
}

double read_bandwidth() {
  static const std::vector<float> memory(size_t{64} << 20, 1.0f);  // 256 MB
  const int times = clock_used == Clock::wall ? 1 : 12;
  double total = 0;
  const double time = seconds([&] {
    for (int t = 0; t < times; ++t) {
#pragma omp parallel for simd schedule(static) reduction(+ : total)
      for (size_t i = 0; i < memory.size(); i += 16) total += memory[i];
    }
  });
  sink = static_cast<float>(total);
  return times * static_cast<double>(memory.size()) * 4 / time;
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

}  // namespace attune::bench
