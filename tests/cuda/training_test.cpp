// Whole runs of training by the CUDA kernels, on the emulator, beside the CPU's: losses within the limits that hold for a GPU too. The host
// cannot touch the emulated device's memory, so nothing that looks at a number behind the device's back survives.
#include <gtest/gtest.h>

#include "support/backends.h"
#include "support/device_runs.h"

namespace attune::train {
namespace {

using test::with;
using List = test::DeviceRuns::List;

struct Case {
  std::string name;
  double tolerance;
  List settings;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CudaTraining : public ::testing::TestWithParam<Case> {
 protected:
  CudaTraining() {
    static const bool added = (ops::add_backend(test::cuda_for_tests()), true);
    (void)added;
  }

  // Losses by step.
  std::vector<double> losses(const std::string& device) const {
    runs_.train(device, with({"max_steps=3", "save_strategy=no"}, GetParam().settings));
    std::vector<double> out;
    std::istringstream log(read_file(runs_.output(device) / "trainer_log.jsonl"));
    for (std::string line; std::getline(log, line);)
      if (const Json json = parse_json(line, "log"); json.contains("loss") && json.contains("throughput")) out.push_back(json["loss"].get<double>());
    return out;
  }

  test::DeviceRuns runs_{nullptr};
};

TEST_P(CudaTraining, LossesAreTheCpus) {
  const std::vector<double> cpu = losses("cpu"), cuda = losses("cuda");
  ASSERT_EQ(cpu.size(), 3u);
  ASSERT_EQ(cuda.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cuda[i], cpu[i], GetParam().tolerance) << "step " << i + 1;
}

const List kLora{"finetuning_type=lora", "lora_rank=4", "lora_dropout=0.1"};

INSTANTIATE_TEST_SUITE_P(Ways, CudaTraining,
                         ::testing::Values(Case{"full", 1e-4, {"weight_decay=0.1", "hidden_dropout=0.1", "neftune_noise_alpha=5"}},
                                           Case{"bf16_accumulated", 2e-2, {"bf16=true", "gradient_accumulation_steps=2", "val_size=6", "num_generation_samples=1"}},
                                           Case{"fp16", 2e-2, {"fp16=true", "gradient_checkpointing=block"}},
                                           Case{"pure_bf16_in_backward", 2e-2, {"pure_bf16=true", "optim=adamw_8bit", "optimizer_in_backward=true"}},
                                           Case{"base_kept_near", 1e-4, {"l2_to_base=0.1", "packing=true"}},
                                           Case{"galore", 1e-4, {"use_galore=true", "galore_rank=4", "galore_update_interval=2"}},
                                           Case{"muon", 1e-4, {"optim=muon"}}, Case{"adafactor", 1e-4, {"optim=adafactor"}},
                                           Case{"dora", 1e-4, with(kLora, {"use_dora=true"})},
                                           Case{"qlora", 2e-2, with(kLora, {"quantization_bit=4", "double_quantization=true", "bf16=true"})},
                                           Case{"dpo", 1e-4, {"stage=dpo", "dataset=pairs.jsonl", "pref_ftx=0.1"}}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace attune::train
