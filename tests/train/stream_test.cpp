// streaming: true through the whole loop: the same bits after a kill, in the middle of a window and at its border; what is said
// of rows; what a stream cannot do.
#include <map>
#include <set>

#include "plan/planner.h"
#include "support/workspace.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

namespace attune::train {
namespace {

using namespace test;
using List = std::vector<std::string>;

class StreamRun : public ::testing::Test {
 protected:
  StreamRun() {
    Json config = small_llama_config();
    config["attention_dropout"] = 0.1;
    config["hidden_size"] = 16;
    config["intermediate_size"] = 32;
    make_small_model(work_ / "model", config);
    std::string rows = small_alpaca(13);
    rows += "{\"instruction\": \"no answer\"}\n" + small_alpaca(9) + "not JSON\n";
    work_.write("one.jsonl", rows);
    work_.write("two.jsonl", small_alpaca(11));
  }
  List settings(const List& more = {}, const std::string& output = "out") const {
    List s{"model_name_or_path=" + (work_ / "model").string(), "dataset=" + (work_ / "one.jsonl").string() + "," + (work_ / "two.jsonl").string(), "template=default",
           "cutoff_len=96", "streaming=true", "buffer_size=10", "max_steps=14", "save_steps=1", "logging_steps=1", "learning_rate=1e-2",
           "per_device_train_batch_size=4", "output_dir=" + (work_ / output).string()};
    for (const std::string& item : more) {  // wins over what stands there
      std::erase_if(s, [&](const std::string& other) { return other.starts_with(item.substr(0, item.find('=') + 1)); });
      s.push_back(item);
    }
    return s;
  }
  // Runs quietly; returns what was said.
  static std::string train(const List& settings) {
    ::testing::internal::CaptureStderr();
    try {
      RunSetup setup = prepare(load_config("", settings));
      run_training(setup, plan::activation_bytes(setup));
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
    return ::testing::internal::GetCapturedStderr();
  }
  std::string refusal(const List& more) const {
    return error_of([&] { train(settings(more)); });
  }
  void undo_after(const fs::path& output, int64_t step) const {
    for (int64_t s = step + 1; s <= 14; ++s) fs::remove_all(output / fmt::format("checkpoint-{}", s));
    for (const char* file : {"model.safetensors", "train_results.json", "trainer_state.json"}) fs::remove(output / file);
  }
  const Workspace work_;
};

TEST_F(StreamRun, KilledInAWindowOrAtItsBorderItEndsWithTheSameBits) {
  for (const List& more : {List{"val_size=3", "eval_steps=5"}, List{"packing=true", "buffer_size=5", "per_device_train_batch_size=1", "mix_strategy=interleave_over", "interleave_probs=0.4,0.6"}}) {
    List all = more;
    all.push_back("overwrite_output_dir=true");
    const std::string said = train(settings(all));
    const bool plain = more[0] == "val_size=3";  // goes through the data more than once
    EXPECT_EQ(said.find("the data is at its end: pass 2 begins") != std::string::npos, plain) << said;
    const auto reported = [&] { return fs::exists(work_ / "out/data_report.jsonl") ? read_file(work_ / "out/data_report.jsonl") : ""; };
    const std::string whole = read_file(work_ / "out/model.safetensors"), report = reported();
    EXPECT_EQ(report.find("one.jsonl:14") != std::string::npos && report.find("one.jsonl:24") != std::string::npos, plain) << report;
    const Json history = read_json(work_ / "out/trainer_state.json")["log_history"];
    all = more;
    all.push_back("resume_from_checkpoint=true");
    std::set<int64_t> windows;
    for (int64_t killed_after : {13, 8, 2, 1}) {
      undo_after(work_ / "out", killed_after);
      const Json place = read_checkpoint_state(work_ / fmt::format("out/checkpoint-{}", killed_after))["stream"];
      windows.insert(place["tokens"] == "" ? -1 : place["window"].get<int64_t>());
      train(settings(all));
      EXPECT_TRUE(read_file(work_ / "out/model.safetensors") == whole) << killed_after;
      EXPECT_EQ(reported(), report) << killed_after;
      const Json again = read_json(work_ / "out/trainer_state.json")["log_history"];
      ASSERT_EQ(again.size(), history.size());
      for (size_t i = 0; i < again.size(); ++i)
        for (const char* key : {"loss", "epoch", "eval_loss"}) EXPECT_EQ(again[i].value(key, 0.0), history[i].value(key, 0.0)) << killed_after << " " << i;
    }
    EXPECT_TRUE(!plain || windows == (std::set<int64_t>{-1, 0, 2}));  // at a border (-1), too
  }
}

TEST_F(StreamRun, TrainsOnEveryRowAndPlansByItsFirstWindow) {
  fs::create_directories(work_ / "out");  // for data_report.jsonl
  ::testing::internal::CaptureStderr();
  RunSetup s = prepare(load_config("", settings({"val_size=3"})));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(s.total_steps, 14);
  EXPECT_LE(s.train_set->size(), 10);
  EXPECT_EQ(s.eval_set->size(), 3);
  // No window can need more than what is planned for.
  const BatchCapacity c = capacity_with(s, s.config);
  EXPECT_EQ(c.tokens, 4 * 96);
  EXPECT_GT(s.stream->memory_bytes(s), 0u);
  std::map<std::string, int> seen;
  int64_t window = -1;
  Step step;
  for (int64_t i = 0; i < 14; ++i) {
    const StreamFeed::Place place = s.stream->place_of(i, s);
    EXPECT_LE(s.train_set->size(), 10);
    s.train_batches->make_step(place.window, place.index, step);
    for (const MicroBatch& b : step.micro_batches)
      for (int64_t sample : b.sequence_samples) ++seen[s.train_set->where(sample)];
    EXPECT_TRUE(place.window != window || place.index > 0);
    window = place.window;
  }
  // 33 rows can be used, 3 are held out: one pass and a part of the next.
  EXPECT_EQ(seen.size(), 30u);
  for (const auto& [where, times] : seen) EXPECT_LE(times, 2) << where;
}

TEST_F(StreamRun, OtherDataDoesNotResume) {
  train(settings({"max_steps=6", "save_steps=2"}));
  undo_after(work_ / "out", 4);
  const List again{"max_steps=6", "save_steps=2", "resume_from_checkpoint=true"};
  EXPECT_NE(refusal({"max_steps=6", "save_steps=2", "resume_from_checkpoint=true", "buffer_size=12"}).find("train_data"), std::string::npos);
  const std::string rows = read_file(work_ / "two.jsonl");
  work_.write("two.jsonl", rows + small_alpaca(1));
  EXPECT_NE(refusal(again).find("train_data"), std::string::npos);
  work_.write("two.jsonl", rows);
  EXPECT_EQ(refusal(again), "");
}

TEST_F(StreamRun, AFileThatBreaksOffLateIsNamedAndWhatWasLearntIsKept) {
  std::string table = "question,answer\n";
  for (int i = 0; i < 30; ++i) table += fmt::format("question {},answer {}\n", i, i);
  table += "\"never closed,x\n";
  const std::string error = refusal({"dataset=" + work_.write("t.csv", table).string(), "save_steps=100"});
  EXPECT_NE(error.find("t.csv:32: a quote in this row is never closed"), std::string::npos) << error;
  EXPECT_NE(error.find("checkpoint-9 holds what was learnt before it"), std::string::npos) << error;
  EXPECT_EQ(verify_checkpoint(work_ / "out/checkpoint-9"), "");
}

TEST_F(StreamRun, WhatDoesNotGoWithItIsRefusedByName) {
  EXPECT_NE(refusal({"max_steps=-1"}).find("streaming needs max_steps"), std::string::npos);
  EXPECT_NE(refusal({"stage=dpo"}).find("stages pt and sft"), std::string::npos);
  EXPECT_NE(refusal({"val_size=0.1"}).find("Give a number of rows"), std::string::npos);
  EXPECT_NE(refusal({"cross_validation=3"}).find("cross_validation"), std::string::npos);
  EXPECT_NE(refusal({"dataset_weights=1,2"}).find("interleave_probs"), std::string::npos);
  EXPECT_NE(refusal({"save_strategy=epoch"}).find("save_steps"), std::string::npos);
  EXPECT_NE(refusal({"dataloader_drop_last=true"}).find("dataloader_drop_last"), std::string::npos);
  for (const char* best : {"early_stopping_patience=2", "load_best_model_at_end=true", "save_strategy=best"}) {
    EXPECT_NE(refusal({"val_size=2", best}).find("Set eval_steps"), std::string::npos) << best;
    EXPECT_EQ(error_of([&] { load_config("", settings({"val_size=2", "eval_steps=4", best})); }), "") << best;
  }
  EXPECT_NE(refusal({"lr_scheduler_type=step"}).find("per=step"), std::string::npos);
  EXPECT_NE(refusal({"dataset=" + (work_ / "one.jsonl").string() + "#5"}).find("max_samples"), std::string::npos);
}

}  // namespace
}  // namespace attune::train
