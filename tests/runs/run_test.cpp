// What runs compare reads, and the table that it makes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runs/run.h"
#include "support/errors.h"
#include "support/workspace.h"

namespace attune {
namespace {

using namespace test;

class Runs : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const Json& results, const Json& first, const Json& last) {
    work.write(name + "/train_results.json", results.dump());
    work.write(name + "/trainer_state.json", Json{{"log_history", {first, {{"loss", 3.0}, {"step", 1}}, last}}}.dump());
    if (!last.empty()) work.write(name + "/eval_results.json", last.dump());
    return (work / name).string();
  }
  const Json results{{"method", "LoRA, rank 8"}, {"trainable_parameters", 8192}, {"parameters", 1000000}, {"steps", 6}, {"train_loss", 2.5}, {"duration_seconds", 83.2},
                     {"tokens_per_second", 512.4}, {"peak_memory_bytes", 1234567890}};
  Workspace work;
};

TEST_F(Runs, LossesAreThoseBeforeTheFirstUpdateAndOfTheResult) {
  const std::string a = write("a", results, {{"eval_loss", 4.0}, {"eval_general_loss", 3.0}, {"step", 0}}, {{"eval_loss", 2.0}, {"eval_general_loss", 3.5}, {"eval_nll_loss", 1.0}, {"step", 6}});
  const runs::Run run = runs::read_run(a);
  EXPECT_EQ(run.name, "a");
  EXPECT_EQ(run.validation.before, 4.0);
  EXPECT_EQ(run.validation.after, 2.0);
  ASSERT_EQ(run.data_sets.size(), 1u);
  EXPECT_EQ(run.data_sets[0].first, "general");
  EXPECT_EQ(run.data_sets[0].second.after, 3.5);
  EXPECT_EQ(runs::run_json(run)["validation_loss"], (Json{{"before", 4.0}, {"after", 2.0}}));
  // Without eval_on_start there is no figure of the base; a later evaluation is none.
  const runs::Run other = runs::read_run(write("b", results, {{"eval_loss", 4.0}, {"step", 3}}, {{"eval_loss", 2.0}, {"step", 6}}));
  EXPECT_FALSE(other.validation.before);
}

TEST_F(Runs, TheTableHasTheColumnsThatSomebodyHasAFigureFor) {
  const runs::Run full = runs::read_run(write("a", results, {{"eval_loss", 4.0}, {"step", 0}}, {{"eval_loss", 2.0}, {"step", 6}}));
  Json older = results;
  for (const char* key : {"method", "trainable_parameters", "parameters"}) older.erase(key);
  work.write("older|x/attune_manifest.json", R"({"stage":"sft","finetuning_type":"full"})");
  const runs::Run old = runs::read_run(write("older|x", older, Json::object(), Json::object()));
  EXPECT_EQ(runs::table({full}, false),
            "run  method        trained  share    updates  training loss  validation loss  duration    tokens/s  peak memory\n"
            "a    LoRA, rank 8  8,192    0.819 %  6        2.5000         4.0000 → 2.0000  1 min 23 s  512       1.23 GB\n");
  const std::string both = runs::table({full, old}, true);
  EXPECT_NE(both.find("| older\\|x | sft | full | – | – | 6 |"), std::string::npos) << both;
  EXPECT_NE(both.find("|---|---|"), std::string::npos);
  EXPECT_EQ(runs::table({old}, false).find("validation"), std::string::npos);
}

TEST_F(Runs, WhatIsNoFinishedRunIsRefusedAndDamageIsSaid) {
  const auto said = [&](const std::string& name) { return error_of([&] { runs::read_run(work / name); }); };
  EXPECT_NE(said("nowhere").find("no such directory"), std::string::npos);
  work.write("model/config.json", "{}");
  EXPECT_NE(said("model").find("not the output_dir"), std::string::npos);
  work.write("going/trainer_log.jsonl", "{}\n");
  EXPECT_NE(said("going").find("not finished"), std::string::npos);
  work.write("pipe/pipeline.json", "{}");
  EXPECT_NE(said("pipe").find("stages"), std::string::npos);
  work.write("broken/train_results.json", "[");
  EXPECT_NE(said("broken"), "");
  work.write("list/train_results.json", "[]");
  EXPECT_NE(said("list").find("JSON object"), std::string::npos);
  // Figures of another kind than a figure are none.
  work.write("odd/train_results.json", R"({"trainable_parameters":"many","parameters":0,"duration_seconds":1e300,"method":7,"train_loss":null})");
  work.write("odd/trainer_state.json", R"({"log_history":[3,{"eval_loss":"x","step":0}]})");
  EXPECT_EQ(runs::table({runs::read_run(work / "odd")}, false), "run\nodd\n");
}

}  // namespace
}  // namespace attune
