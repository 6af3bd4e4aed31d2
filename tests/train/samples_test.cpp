// num_generation_samples: what is written, and that training does not notice.
#include "train/samples.h"

#include "plan/planner.h"
#include "support/workspace.h"
#include "train/trainer.h"

namespace attune::train {
namespace {

using namespace test;
using List = std::vector<std::string>;

class Samples : public ::testing::Test {
 protected:
  Samples() {
    Json config = small_llama_config();
    config["attention_dropout"] = 0.1;
    make_small_model(work_ / "base", config);
    work_.write("data.jsonl", small_alpaca(24));
  }
  List settings(const std::string& output, List more) const {
    more.insert(more.end(), {"model_name_or_path=" + (work_ / "base").string(), "dataset=" + (work_ / "data.jsonl").string(), "template=alpaca",
                             "val_size=0.25", "eval_strategy=steps", "eval_steps=3", "max_steps=6", "save_steps=3", "learning_rate=1e-2", "finetuning_type=full",
                             "per_device_train_batch_size=2", "output_dir=" + (work_ / output).string()});
    return more;
  }
  static std::string train(const List& all) {
    ::testing::internal::CaptureStderr();
    try {
      RunSetup setup = prepare(load_config("", all));
      run_training(setup, plan::activation_bytes(setup));
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
    return ::testing::internal::GetCapturedStderr();
  }
  std::vector<Json> lines(const std::string& output) const {
    std::ifstream in(work_ / output / "generated_samples.jsonl");
    std::vector<Json> out;
    for (std::string text; std::getline(in, text);) out.push_back(parse_json(text, "generated_samples.jsonl"));
    return out;
  }
  std::string weights(const std::string& output) const { return read_file(work_ / output / "model.safetensors"); }
  Workspace work_;
};

TEST_F(Samples, ChangeNoBitOfTheRun) {
  for (const char* compute : {"bf16=false", "bf16=true"}) {
    const std::string name = compute;
    train(settings("without_" + name, {compute}));
    // Longer answers than anything trained on: the position tables must grow.
    const std::string said = train(settings("with_" + name, {compute, "num_generation_samples=3", "generation_max_new_tokens=80"}));
    EXPECT_EQ(weights("with_" + name), weights("without_" + name)) << compute;
    EXPECT_NE(said.find("step 3  sample: "), std::string::npos) << said;
    EXPECT_EQ(said.find("no samples"), std::string::npos) << said;
    EXPECT_FALSE(fs::exists(work_ / ("without_" + name) / "generated_samples.jsonl"));
  }
}

TEST_F(Samples, AreTheFirstPromptsWithTheirAnswers) {
  const List all = settings("out", {"num_generation_samples=2", "generation_max_new_tokens=4"});
  train(all);
  const auto rows = lines("out");
  ASSERT_EQ(rows.size(), 4u);
  const RunSetup setup = prepare(load_config("", [&] {
    List again = all;
    again.push_back("overwrite_output_dir=true");
    return again;
  }()));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i].size(), 4u);
    EXPECT_EQ(rows[i]["step"], i < 2 ? 3 : 6);
    const auto ids = setup.eval_set->ids(static_cast<int64_t>(i % 2));
    const std::string whole = setup.tokenizer->decode(ids, true);
    const auto prompt = rows[i]["prompt"].get<std::string>(), label = rows[i]["label"].get<std::string>();
    EXPECT_EQ(whole.rfind(prompt, 0), 0u) << prompt;
    EXPECT_NE(whole.find(label), std::string::npos) << label;
    EXPECT_TRUE(label.starts_with("The ")) << label;
    EXPECT_LE(setup.tokenizer->encode(rows[i]["predict"].get<std::string>()).ids.size(), 8u);
  }
}

TEST_F(Samples, ArePlannedFor) {
  const auto bytes = [&](List more) { return plan::make_plan(prepare(load_config("", settings("plan", more))), nullptr).sample_bytes; };
  EXPECT_EQ(bytes({}), 0u);
  const uint64_t few = bytes({"num_generation_samples=1"}), many = bytes({"num_generation_samples=6", "generation_max_new_tokens=500"});
  EXPECT_GT(few, 2u * 2 * 16 * 4 * 64);  // at least the cache of 64 new tokens
  EXPECT_GT(many, few + 6u * 2 * 2 * 16 * 4 * 400);
}

TEST_F(Samples, LinesBehindTheResumedUpdateGo) {
  const List more{"num_generation_samples=2", "generation_max_new_tokens=4"};
  train(settings("out", more));
  const auto whole = lines("out");
  fs::remove_all(work_ / "out/checkpoint-6");
  fs::remove(work_ / "out/train_results.json");
  List again = more;
  again.push_back("resume_from_checkpoint=true");
  train(settings("out", again));
  EXPECT_EQ(lines("out"), whole);
}

}  // namespace
}  // namespace attune::train
