// The same run on the host and on a device whose memory the host cannot touch (support/guarded_device.h), which has the same
// kernels: the same files to the bit, and no look at a number that did not ask for it.
#include <gtest/gtest.h>

#include "plan/planner.h"
#include "support/guarded_device.h"
#include "support/workspace.h"
#include "train/trainer.h"

namespace attune::train {
namespace {

using test::Workspace;
using List = std::vector<std::string>;

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
    Json config = test::small_llama_config();
    config.update({{"hidden_size", 16}, {"intermediate_size", 32}, {"attention_dropout", 0.1}});
    if (GetParam().model.is_object()) config.update(GetParam().model);
    test::make_small_model(work_ / "model", config);
    work_.write("sft.jsonl", test::small_alpaca(24));
    std::string pairs, judged;
    for (int i = 0; i < 16; ++i) {
      const std::string question = fmt::format("What did the cat see on day {}?", i), good = fmt::format("It saw {} dogs.", i + 2), bad = "No.";
      pairs += dump_json({{"question", question}, {"chosen", good}, {"rejected", bad}}) + "\n";
      judged += dump_json({{"messages", {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", i % 2 ? good : bad}}}},
                           {"label", i % 2 == 1}}) + "\n";
    }
    work_.write("pairs.jsonl", pairs);
    work_.write("judged.jsonl", judged);
  }

  List settings(const std::string& device, const List& more) const {
    List s{"model_name_or_path=" + (work_ / "model").string(), "dataset=" + (work_ / "sft.jsonl").string(), "template=default", "cutoff_len=96",
           "per_device_train_batch_size=4", "logging_steps=1", "learning_rate=1e-2", "max_steps=4", "save_steps=2", "device=" + device,
           "output_dir=" + (work_ / device).string()};
    for (std::string item : more) {
      for (const char* file : {"pairs.jsonl", "judged.jsonl"})
        if (item == std::string("dataset=") + file) item = "dataset=" + (work_ / file).string();
      const std::string key = item.substr(0, item.find('=') + 1);
      std::erase_if(s, [&](const std::string& other) { return other.starts_with(key); });
      s.push_back(item);
    }
    return s;
  }

  void train(const std::string& device, const List& more) const {
    ::testing::internal::CaptureStderr();
    try {
      RunSetup setup = prepare(load_config("", settings(device, more)));
      const plan::Plan plan = plan::make_plan(setup, nullptr);
      const Json results = parse_json(run_training(setup, plan.parts.activations), "results");
      ::testing::internal::GetCapturedStderr();
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
  }

  // Every file of numbers that the run on the host left is there with the same bytes.
  void expect_same_files() const {
    int64_t compared = 0;
    for (const auto& entry : fs::recursive_directory_iterator(work_ / "cpu")) {
      if (entry.path().extension() != ".safetensors") continue;
      const fs::path other = work_ / "cuda" / fs::relative(entry.path(), work_ / "cpu");
      ASSERT_TRUE(fs::exists(other)) << other;
      EXPECT_TRUE(read_file(entry.path()) == read_file(other)) << other;
      ++compared;
    }
    EXPECT_GE(compared, 3);  // the result, and two checkpoints
  }

  Workspace work_;
};

TEST_P(OnADevice, ARunLeavesTheBitsOfOneOnTheHost) {
  train("cpu", GetParam().settings);
  const int64_t before = testing::guarded_calls();
  train("cuda", GetParam().settings);
  EXPECT_GT(testing::guarded_calls(), before + 100);
  expect_same_files();
}

// Killed behind its first checkpoint: what is loaded goes where it was saved from.
class ResumedOnADevice : public OnADevice {};
TEST_P(ResumedOnADevice, ARunLeavesTheSameBitsToo) {
  train("cpu", GetParam().settings);
  train("cuda", GetParam().settings);
  for (const auto& entry : fs::directory_iterator(work_ / "cuda"))
    if (const std::string name = entry.path().filename().string(); name == "checkpoint-4" || name.ends_with(".safetensors") || name == "train_results.json")
      if (name != "reference_logps.safetensors") fs::remove_all(entry.path());
  List more = GetParam().settings;
  more.push_back("resume_from_checkpoint=true");
  train("cuda", more);
  expect_same_files();
}

const List kLora{"finetuning_type=lora", "lora_rank=4", "lora_dropout=0.1"};
List with(List first, const List& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

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
