// What a pipeline remembers of its stages; what stages do is tested from the command line (tests/cli/preference_test.cpp).
#include "train/pipeline.h"

#include "support/workspace.h"

namespace attune::train {
namespace {

using test::Workspace;
using List = std::vector<std::string>;

class PipelineState : public ::testing::Test {
 protected:
  std::vector<Config> stages(const std::string& shared, const List& overrides = {}) {
    List all{"model_name_or_path=base", "dataset=d.jsonl", "output_dir=" + (work_ / "out").string()};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return load_stages(work_.write("pipe.yaml", shared + "stages:\n  - {stage: pt}\n  - {stage: sft}\n"), all);
  }
  // A stage that takes no time; `broken_`: killed before it has done anything.
  PipelineHooks hooks() {
    PipelineHooks h;
    h.run = [this](const Config& c) -> std::string {
      begun_.push_back(fs::path(c.output_dir).filename().string());
      if (broken_) fail("killed");
      const fs::path out = c.output_dir;
      fs::create_directories(out);
      write_file(out / "attune_config.yaml", c.resolved_yaml());
      write_file(out / "trainer_state.json", R"({"log_history": []})");
      for (const char* file : {"all_results.json", "train_results.json"}) write_file(out / file, R"({"steps": 1, "train_runtime": 1.0, "train_loss": 1.0})");
      return "{}";
    };
    h.merge = [](const Config&, const std::string& out) { fs::create_directories(out); };
    return h;
  }
  Workspace work_;
  List begun_;
  bool broken_ = false;
};

TEST_F(PipelineState, WhatAnEarlierOneLeftIsNeverTakenForAStageThatWasKilled) {
  run_pipeline(stages("finetuning_type: full\n"), hooks());
  broken_ = true;
  EXPECT_THROW(run_pipeline(stages("finetuning_type: full\n", {"overwrite_output_dir=true"}), hooks()), Error);
  broken_ = false;
  begun_.clear();
  run_pipeline(stages("finetuning_type: full\n", {"resume_from_checkpoint=true"}), hooks());
  EXPECT_EQ(begun_, (List{"1-pt", "2-sft"}));
  begun_.clear();
  run_pipeline(stages("finetuning_type: full\n", {"resume_from_checkpoint=true"}), hooks());
  EXPECT_EQ(begun_, List{});
}

TEST_F(PipelineState, AdaptersThatAllStagesNameAreInTheResultThatTheNextOneBeginsWith) {
  const auto all = stages("finetuning_type: lora\nadapter_name_or_path: a\ncreate_new_adapter: true\n");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].adapter_name_or_path, List{"a"});
  EXPECT_TRUE(all[0].create_new_adapter);
  EXPECT_EQ(all[1].model_name_or_path, (work_ / "out/1-pt/merged").string());
  EXPECT_EQ(all[1].adapter_name_or_path, List{});
  EXPECT_FALSE(all[1].create_new_adapter);
}

}  // namespace
}  // namespace attune::train
