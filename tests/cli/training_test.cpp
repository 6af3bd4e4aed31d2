// The main job from the command line, and that it survives being killed.
#include <random>

#include "cli/program.h"

namespace attune {
namespace {

using namespace test;

class Training : public ::testing::Test {
 protected:
  Training() {
    work_.write("data.jsonl", small_alpaca(40));
    work_.write("config.json", small_llama_config().dump(1));
    copy_small_tokenizer(work_ / "tokenizer");
    const Result r = run({"init", "--config", at("config.json"), "--out", at("base"), "--tokenizer", at("tokenizer"), "--seed", "3"});
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.out, "");
  }
  std::string at(const std::string& name) const { return (work_ / name).string(); }
  std::vector<std::string> train(const std::string& output, std::vector<std::string> more = {}) const {
    std::vector<std::string> all{"train", "model_name_or_path=" + at("base"), "dataset=" + at("data.jsonl"), "template=default", "cutoff_len=96",
                                 "per_device_train_batch_size=4", "learning_rate=5e-3", "output_dir=" + at(output)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Workspace work_;
};

TEST_F(Training, InitTrainGenerate) {
  const Result r = run(train("out", {"num_train_epochs=4", "lr_scheduler_type=cosine", "warmup_ratio=0.1", "logging_steps=5", "val_size=4", "--json"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_LT(r.seconds, 60);
  const Json results = parse_json(r.out, "results");  // nothing else on stdout
  for (const char* key : {"train_loss", "eval_loss", "tokens_per_second", "peak_memory_bytes", "duration_seconds"}) EXPECT_TRUE(results.contains(key)) << key;
  EXPECT_TRUE(says(r.err, "loss")) << r.err;
  const Json history = read_json(work_ / "out/trainer_state.json")["log_history"];
  EXPECT_LT(history[6]["loss"].get<double>(), 0.8 * history[0]["loss"].get<double>());
  const Result g = run({"generate", "--model", at("out"), "--prompt", "Tell me about the cat.", "--chat", "--max-new-tokens", "20"});
  EXPECT_EQ(g.code, 0) << g.err;
  EXPECT_EQ(g.err, "");
  // What was not asked for is not lost.
  const Result again = run(train("out"));
  expect_failure(again, 2, "already holds a run");
}

TEST_F(Training, PlanIsWhatTheRunTakes) {
  std::vector<std::string> settings = train("out", {"max_steps=3", "per_device_eval_batch_size=2", "val_size=2"});
  // Large enough that the engine's own bytes show.
  Json config = small_llama_config();
  config["hidden_size"] = 384, config["intermediate_size"] = 1024, config["num_hidden_layers"] = 6;
  work_.write("base/config.json", config.dump());
  fs::remove(work_ / "base/model.safetensors");
  work_.write("larger.json", config.dump());
  fs::remove_all(work_ / "base");
  ASSERT_EQ(run({"init", "--config", at("larger.json"), "--out", at("base"), "--tokenizer", at("tokenizer")}).code, 0);
  for (const std::string& precision : {std::string("bf16=false"), std::string("bf16=true")}) {
    auto with = settings;
    with.push_back(precision);
    with.push_back("overwrite_output_dir=true");
    const Result trained = run(with);
    ASSERT_EQ(trained.code, 0) << trained.err;
    with[0] = "plan";
    with.push_back("--json");
    const Result planned = run(with);
    ASSERT_EQ(planned.code, 0) << planned.err;
    const Json plan = parse_json(planned.out, "plan");
    for (const char* key : {"peak_memory_bytes", "parts", "tokens_per_second", "duration_seconds", "fits", "available_memory_bytes", "suggestions"})
      EXPECT_TRUE(plan.contains(key)) << key;
    EXPECT_TRUE(plan["fits"].get<bool>());
    double sum = 0;
    for (const auto& [name, bytes] : plan["parts"].items()) sum += bytes.get<double>();
    const double peak = plan["peak_memory_bytes"].get<double>(), real = read_json(work_ / "out/train_results.json")["peak_memory_bytes"].get<double>();
    EXPECT_EQ(sum, peak);
    EXPECT_NEAR(peak, real, std::max(0.03 * real, 64e6)) << precision;
    EXPECT_GT(plan["tokens_per_second"].get<double>(), 0);
  }
}

TEST_F(Training, KilledAtRandomMomentsItEndsWithTheSameBits) {
  const std::vector<std::string> settings{"max_steps=40", "save_steps=3", "save_total_limit=2", "packing=true", "gradient_accumulation_steps=2", "logging_steps=4"};
  const Result plain = run(train("whole", settings));
  ASSERT_EQ(plain.code, 0) << plain.err;
  auto with = settings;
  with.push_back("resume_from_checkpoint=true");
  std::mt19937 random(std::random_device{}());
  int kills = 0;
  // At half the time that a run takes a kill hits mostly in the middle of the work; at times while writing.
  for (int i = 0; i < 12 && kills < 3; ++i) {
    const double moment = plain.seconds * (0.15 + 0.4 * static_cast<double>(random() % 1000) / 1000);
    const Result r = run(train("killed", with), moment);
    if (r.code != 0) {
      EXPECT_EQ(r.code, -SIGKILL) << r.err;
      ++kills;
    }
    if (fs::exists(work_ / "killed/train_results.json")) fs::remove_all(work_ / "killed");
  }
  EXPECT_EQ(kills, 3);
  const Result last = run(train("killed", with));
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_TRUE(read_file(work_ / "killed/model.safetensors") == read_file(work_ / "whole/model.safetensors"));
  int left = 0;
  for (const auto& entry : fs::directory_iterator(work_ / "killed")) {
    const std::string name = entry.path().filename().string();
    left += name.starts_with("checkpoint-");
    EXPECT_FALSE(name.starts_with(".")) << name;
  }
  EXPECT_EQ(left, 2);
}

TEST_F(Training, InterruptedItSavesAndSaysHowToGoOn) {
  const std::vector<std::string> settings{"max_steps=60", "save_steps=1000", "logging_steps=20"};
  const Result plain = run(train("whole", settings));
  ASSERT_EQ(plain.code, 0) << plain.err;
  const fs::path log = work_ / "stopped/trainer_log.jsonl";
  const Result r = run_until(train("stopped", settings), [&](double) { return fs::exists(log) && says(read_file(log), "loss"); }, SIGTERM);
  ASSERT_EQ(r.code, 1) << r.err;
  EXPECT_TRUE(says(r.err, "interrupted at update")) << r.err;
  EXPECT_TRUE(says(r.err, "resume_from_checkpoint=true")) << r.err;
  auto with = settings;
  with.push_back("resume_from_checkpoint=true");
  ASSERT_EQ(run(train("stopped", with)).code, 0);
  EXPECT_TRUE(read_file(work_ / "stopped/model.safetensors") == read_file(work_ / "whole/model.safetensors"));
}

TEST_F(Training, PlacesThatCannotBeWrittenAreSaid) {
  work_.write("file", "x");
  expect_failure(run(train("file")), 2, "output_dir");
  const Result below = run(train("file/out", {"max_steps=1"}));
  EXPECT_TRUE(below.code == 1 || below.code == 2) << below.err;
  EXPECT_TRUE(says(below.err, "error: ")) << below.err;
  // A device without space: the run ends with a message, and what was there stays.
  const Result full = run({"init", "--config", at("config.json"), "--out", "/proc/attune"});
  EXPECT_EQ(full.code, 1) << full.err;
}

TEST_F(Training, ARunThatCannotFitIsRefusedWithWhatWouldHelp) {
  Json config = small_llama_config();
  config["hidden_size"] = 8192, config["intermediate_size"] = 32768, config["num_hidden_layers"] = 200, config["num_attention_heads"] = 64;
  work_.write("base/config.json", config.dump());
  const Result planned = run([&] { auto a = train("out", {"--json"}); a[0] = "plan"; return a; }());
  ASSERT_EQ(planned.code, 0) << planned.err;
  const Json plan = parse_json(planned.out, "plan");
  EXPECT_FALSE(plan["fits"].get<bool>());
  EXPECT_GT(plan["suggestions"].size(), 0u);
  const Result r = run(train("out"));
  expect_failure(r, 2, "--force");
  EXPECT_TRUE(says(r.err, "gradient_checkpointing")) << r.err;
}

}  // namespace
}  // namespace attune
