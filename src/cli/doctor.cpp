// What this machine offers.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "ops/backend.h"
#include "ops/blas/onednn.h"
#include "plan/planner.h"
#include "util/json.h"
#include "util/machine.h"

namespace attune::cli {

int doctor(bool json) {
  const bool bf16 = ops::onednn::bf16_hardware();
  const plan::MachinePace fp32 = plan::measure_pace(DType::f32), half = plan::measure_pace(DType::bf16);
  std::string no_gpu;
  const ops::Backend* cuda = ops::cuda_backend(&no_gpu);
  std::vector<std::string> advice;
  if (!bf16) advice.push_back("this processor does not multiply bf16: bf16 halves activations but tiles are converted to fp32, so it is not faster than fp32");
  if (omp_get_max_threads() < omp_get_num_procs())
    advice.push_back(fmt::format("{} of {} processors are used (OMP_NUM_THREADS)", omp_get_max_threads(), omp_get_num_procs()));
  if (available_memory_bytes() < 2'000'000'000) advice.push_back("less than 2 GB of memory are free");
  if (json) {
    fmt::print("{}\n", dump_json({{"processor", processor_name()},
                                  {"processors", omp_get_num_procs()},
                                  {"threads", omp_get_max_threads()},
                                  {"instruction_sets", instruction_sets()},
                                  {"backend", ops::cpu_backend().name},
                                  {"bf16_hardware", bf16},
                                  {"memory_bytes", total_memory_bytes()},
                                  {"available_memory_bytes", available_memory_bytes()},
                                  {"gpus", cuda ? Json::array({{{"name", cuda->device().name()}, {"memory_bytes", cuda->device().total_memory()}, {"available_memory_bytes", cuda->device().free_memory()}}}) : Json::array()},
                                  {"gpu_problem", no_gpu},
                                  {"mpi", false},
                                  {"calibration", {{"fp32_tflops", fp32.matrix_flops / 1e12}, {"bf16_tflops", half.matrix_flops / 1e12}, {"axpy_gbs", fp32.axpy_bytes / 1e9}}},
                                  {"advice", advice}}));
    return 0;
  }
  fmt::print("processor     {} ({} processors, {} threads used)\n", processor_name(), omp_get_num_procs(), omp_get_max_threads());
  fmt::print("instructions  {}; kernels: {}\n", fmt::join(instruction_sets(), " "), ops::cpu_backend().name);
  fmt::print("matrix work   fp32 {:.0f} GFLOP/s, bf16 {:.0f} GFLOP/s ({})\n", fp32.matrix_flops / 1e9, half.matrix_flops / 1e9, bf16 ? "in hardware" : "converted to fp32");
  fmt::print("memory        {} of {} available, {:.0f} GB/s\n", format_bytes(available_memory_bytes()), format_bytes(total_memory_bytes()), fp32.axpy_bytes / 1e9);
  if (cuda) fmt::print("GPU           {}: {} of {} available\n", cuda->device().name(), format_bytes(cuda->device().free_memory()), format_bytes(cuda->device().total_memory()));
  else fmt::print("GPU           none: {}\n", no_gpu);
  fmt::print("MPI           not used: this version is one process\n");
  for (const std::string& line : advice) fmt::print("note: {}\n", line);
  return 0;
}

}  // namespace attune::cli
