#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench/bench.h"
#include "util/json.h"
#include "util/machine.h"

namespace attune::bench {

std::string result_text(const Result& r) {
  std::string out = fmt::format("{}; {} threads\n", r.model, r.threads);
  out += fmt::format("this machine at most: bf16 {:.0f} GFLOP/s, fp32 {:.0f} GFLOP/s, memory {:.1f} GB/s (y += a x), {:.1f} GB/s read\n\n",
                     r.bf16_flops / 1e9, r.fp32_flops / 1e9, r.axpy_bytes / 1e9, r.read_bytes / 1e9);
  out += fmt::format("{:<18} {:<16} {:<26} {:>6} {:>10} {:>14} {:>7}\n", "kernel", "role", "shape", "calls", "ms", "rate", "share");
  for (const Kernel& k : r.kernels) {
    if (k.seconds < 5e-4 * r.step_seconds) continue;
    const std::string rate = k.by_bytes ? fmt::format("{:.1f} GB/s", k.rate / 1e9) : fmt::format("{:.0f} GFLOP/s", k.rate / 1e9);
    out += fmt::format("{:<18} {:<16} {:<26} {:>6.0f} {:>10.1f} {:>14} {:>5.0f} %\n", k.op, k.role, k.shape, k.calls, 1e3 * k.seconds, rate, 100 * k.share);
  }
  out += "\nthe step\n";
  for (const Part& p : r.parts) {
    const double share = p.seconds / r.step_seconds;
    std::string bar;
    for (int i = 0; i < static_cast<int>(40 * share + 0.5); ++i) bar += "█";
    out += fmt::format("  {:<22} {:>8.3f} s {:>6.1f} %  {}\n", p.name, p.seconds, 100 * share, bar);
  }
  out += fmt::format("  {:<22} {:>8.3f} s, {:.1f} tokens/s, peak memory {}\n", "sum", r.step_seconds, r.tokens_per_second, format_bytes(r.peak_memory_bytes));
  out += fmt::format("  MFU {:.1f} % (median of {}, {:.1f} to {:.1f} %): {:.3g} GFLOP a token, causal attention, nothing counted twice\n", 100 * r.step_mfu,
                     r.mfu.size(), 100 * r.mfu.front(), 100 * r.mfu.back(), r.flops_per_token / 1e9);
  out += fmt::format("generation, one answer: {:.1f} tokens/s, {:.0f} % of read bandwidth\n", r.generation.tokens_per_second, 100 * r.generation.share);
  if (!r.steady) out += "note: the machine changed its speed by more than 5 % around every step: read these figures as rough\n";
  return out;
}

std::string result_json(const Result& r) {
  Json kernels = Json::array(), parts = Json::object();
  for (const Kernel& k : r.kernels)
    kernels.push_back({{"op", k.op}, {"role", k.role}, {"shape", k.shape}, {"calls", k.calls}, {"seconds", k.seconds},
                       {k.by_bytes ? "gbs" : "gflops", k.rate / 1e9}, {"share", k.share}});
  for (const Part& p : r.parts) parts[p.name] = p.seconds;
  return dump_json({{"calibration", {{"bf16_tflops", r.bf16_flops / 1e12}, {"fp32_tflops", r.fp32_flops / 1e12}, {"axpy_gbs", r.axpy_bytes / 1e9}, {"read_gbs", r.read_bytes / 1e9}}},
                    {"threads", r.threads},
                    {"kernels", kernels},
                    {"generation", {{"tokens_per_second", r.generation.tokens_per_second}, {"share", r.generation.share}}},
                    {"step", {{"model", r.model}, {"tokens", r.tokens}, {"seconds", r.step_seconds}, {"tokens_per_second", r.tokens_per_second},
                              {"flops_per_token", r.flops_per_token}, {"mfu", r.step_mfu}, {"mfu_of_steps", r.mfu}, {"steady", r.steady},
                              {"peak_memory_bytes", r.peak_memory_bytes}, {"parts", parts}}}});
}

}  // namespace attune::bench
