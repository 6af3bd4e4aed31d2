// The same run on the host and on a device whose memory the host cannot touch (support/guarded_device.h), which has the same
// kernels: the same files to the bit, and no look at a number that did not ask for it.
#include <gtest/gtest.h>

#include "support/device_runs.h"
#include "support/guarded_device.h"

namespace attune::train {
namespace {

using test::with;
using List = test::DeviceRuns::List;

struct Case {
  std::string name;
  List settings;
  Json model = {};  // changes of the small llama's config
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class OnADevice : public ::testing::TestWithParam<Case> {
 protected:
  OnADevice() {
    static const bool added = (ops::add_backend(testing::guarded_backend()), true);
    (void)added;
  }

  // Every file of numbers that the run on the host left is there with the same bytes.
  void expect_same_files() const {
    int64_t compared = 0;
    for (const auto& entry : fs::recursive_directory_iterator(runs_.output("cpu"))) {
      if (entry.path().extension() != ".safetensors") continue;
      const fs::path other = runs_.output("cuda") / fs::relative(entry.path(), runs_.output("cpu"));
      ASSERT_TRUE(fs::exists(other)) << other;
      EXPECT_TRUE(read_file(entry.path()) == read_file(other)) << other;
      ++compared;
    }
    EXPECT_GE(compared, 3);  // the result, and two checkpoints
  }

  test::DeviceRuns runs_{GetParam().model};
};

TEST_P(OnADevice, ARunLeavesTheBitsOfOneOnTheHost) {
  runs_.train("cpu", GetParam().settings);
  const int64_t before = testing::guarded_calls();
  runs_.train("cuda", GetParam().settings);
  EXPECT_GT(testing::guarded_calls(), before + 100);
  expect_same_files();
}

// Killed behind its first checkpoint: what is loaded goes where it was saved from.
class ResumedOnADevice : public OnADevice {};
TEST_P(ResumedOnADevice, ARunLeavesTheSameBitsToo) {
  runs_.train("cpu", GetParam().settings);
  runs_.train("cuda", GetParam().settings);
  for (const auto& entry : fs::directory_iterator(runs_.output("cuda")))
    if (const std::string name = entry.path().filename().string(); name == "checkpoint-4" || name.ends_with(".safetensors") || name == "train_results.json")
      if (name != "reference_logps.safetensors") fs::remove_all(entry.path());
  runs_.train("cuda", with(GetParam().settings, {"resume_from_checkpoint=true"}));
  expect_same_files();
}

const List kLora{"finetuning_type=lora", "lora_rank=4", "lora_dropout=0.1"};

std::string name_of(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    Ways, OnADevice,
    ::testing::Values(Case{"full", {"weight_decay=0.1", "hidden_dropout=0.1", "neftune_noise_alpha=5"}},
                      Case{"bf16_accumulated", {"bf16=true", "gradient_accumulation_steps=2", "val_size=6", "eval_steps=2", "num_generation_samples=2"}},
                      Case{"fp16", {"fp16=true", "gradient_checkpointing=block"}},
                      Case{"pure_bf16_in_backward", {"pure_bf16=true", "optim=adamw_8bit", "optimizer_in_backward=true"}},
                      Case{"base_kept_near", {"l2_to_base=0.1", "packing=true"}},
                      Case{"freeze", {"finetuning_type=freeze", "freeze_trainable_layers=1", "clipping=per_tensor"}},
                      Case{"badam", {"use_badam=true", "badam_switch_interval=1", "bf16=true"}},
                      Case{"galore", {"use_galore=true", "galore_rank=4", "galore_update_interval=2"}}, Case{"muon", {"optim=muon"}},
                      Case{"adafactor", {"optim=adafactor"}}, Case{"lora", kLora}, Case{"dora", with(kLora, {"use_dora=true"})},
                      Case{"pissa", with(kLora, {"pissa_init=true", "bf16=true"})},
                      Case{"qlora", with(kLora, {"quantization_bit=4", "double_quantization=true", "bf16=true"})},
                      Case{"tensor_train", with(kLora, {"use_tensor_train=true"})},
                      Case{"new_tokens", {"add_tokens=<drug>,<dose>", "resize_vocab=true"}},
                      Case{"dpo", {"stage=dpo", "dataset=pairs.jsonl", "pref_ftx=0.1"}}, Case{"kto", {"stage=kto", "dataset=judged.jsonl"}},
                      Case{"rm", {"stage=rm", "dataset=pairs.jsonl"}},
                      Case{"tied_in_backward", {"optimizer_in_backward=true", "optim=sgd"}, {{"tie_word_embeddings", true}}},
                      Case{"dynamic_rope", {}, {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}, {"max_position_embeddings", 32}}}),
    name_of);
INSTANTIATE_TEST_SUITE_P(Ways, ResumedOnADevice,
                         ::testing::Values(Case{"bf16_8bit", {"bf16=true", "optim=adamw_8bit", "l2_to_base=0.1"}}, Case{"badam", {"use_badam=true", "badam_switch_interval=1"}},
                                           Case{"tensor_train", with(kLora, {"use_tensor_train=true"})}, Case{"kto", {"stage=kto", "dataset=judged.jsonl"}}),
                         name_of);

}  // namespace
}  // namespace attune::train
