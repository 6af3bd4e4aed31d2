// Questions, their answers' scores, and what a configuration holds out.
#include "eval/evaluation.h"

#include <algorithm>
#include <set>

#include "support/workspace.h"
#include "train/setup.h"

namespace attune::eval {
namespace {

using test::error_of;
using test::Workspace;

Evaluation two_sets() {
  Evaluation e;
  e.data_sets = {"a", "b"};
  e.questions = {{{}, "q1", "yes", "yes", 0}, {{}, "q2", "no", "perhaps", 0}, {{}, "q3", "a long answer here", "a long answer", 1}};
  e.score();
  return e;
}

TEST(Evaluation, ScoresEachDataSetAndAll) {
  const Evaluation e = two_sets();
  const Json json = e.json();
  EXPECT_EQ(json["questions"], 3);
  EXPECT_EQ(json["matches"], 1);
  EXPECT_NEAR(json["exact_match"].get<double>(), 1.0 / 3, 1e-12);
  EXPECT_NEAR(json["data_sets"]["a"]["exact_match"].get<double>(), 0.5, 1e-12);
  EXPECT_NEAR(json["data_sets"]["b"]["rouge_1"].get<double>(), 2 * 3.0 / 7, 1e-12);
  EXPECT_NEAR(json["f1"].get<double>(), (1 + 0 + 2 * 2.0 / 5) / 3, 1e-12);
  EXPECT_EQ(e.predictions_jsonl().substr(0, e.predictions_jsonl().find('\n')), R"({"prompt": "q1", "predict": "yes", "label": "yes"})");
}

TEST(Evaluation, NumbersFromElsewhereJoin) {
  Evaluation e = two_sets();
  e.join("", "loss", 1.5);
  e.join("b", "loss", 2.5);
  e.join("c", "loss", 3.5);
  const Json json = e.json();
  EXPECT_EQ(json["loss"], 1.5);
  EXPECT_EQ(json["data_sets"]["b"]["loss"], 2.5);
  EXPECT_EQ(json["data_sets"]["c"]["loss"], 3.5);
  EXPECT_EQ(json["data_sets"]["a"].contains("loss"), false);
}

class HeldOut : public ::testing::Test {
 protected:
  HeldOut() {
    test::make_small_model(work_ / "base");
    work_.write("data.jsonl", test::small_alpaca(20));
    work_.write("test.jsonl", test::small_alpaca(3));
  }
  train::Config config(std::vector<std::string> more) {
    more.insert(more.end(), {"model_name_or_path=" + (work_ / "base").string(), "template=default", "output_dir=" + (work_ / "out").string(), "finetuning_type=full"});
    return train::load_config("", more);
  }
  std::string at(const std::string& name) { return (work_ / name).string(); }
  Workspace work_;
};

TEST_F(HeldOut, RowsAreThoseThatTrainingHoldsOut) {
  const train::Config c = config({"dataset=" + at("data.jsonl"), "val_size=0.25"});
  const data::Records records = held_out_records(c);
  const train::RunSetup setup = train::prepare(c);
  std::set<std::string> held, asked;
  for (int64_t i = 0; i < setup.eval_set->size(); ++i) held.insert(setup.eval_set->where(i));
  for (const auto& r : records.rows) asked.insert(records.where(r.source));
  EXPECT_EQ(asked.size(), 5u);
  EXPECT_EQ(asked, held);
  // A data set of its own needs no training data.
  EXPECT_EQ(held_out_records(config({"eval_dataset=" + at("test.jsonl")})).rows.size(), 3u);
  EXPECT_NE(error_of([&] { held_out_records(config({"dataset=" + at("data.jsonl")})); }).find("nothing is held out"), std::string::npos);
  EXPECT_NE(error_of([&] { train::prepare(config({"eval_dataset=" + at("test.jsonl")})); }).find("dataset is missing"), std::string::npos);
  EXPECT_NE(error_of([&] { held_out_records(config({"eval_dataset=" + at("test.jsonl"), "stage=pt"})); }).find("stage pt"), std::string::npos);
}

TEST_F(HeldOut, NoRepeatedRowIsBothTrainedAndAsked) {
  const train::Config c = config({"dataset=" + at("data.jsonl") + "#30", "val_size=0.3"});
  const train::RunSetup setup = train::prepare(c);
  std::set<std::string> trained;
  for (int64_t i = 0; i < setup.train_set->size(); ++i) trained.insert(setup.train_set->where(i));
  const data::Records records = held_out_records(c);
  std::set<std::string> asked;
  for (const auto& r : records.rows) {
    EXPECT_FALSE(trained.count(records.where(r.source)));
    EXPECT_TRUE(asked.insert(records.where(r.source)).second);
  }
}

TEST_F(HeldOut, AnswersAreGeneratedFromThePromptBeforeTheLastAnswer) {
  infer::Generator generator(at("base"), DType::f32);
  const data::Records records = held_out_records(config({"eval_dataset=" + at("test.jsonl")}));
  const Evaluation e = evaluate(generator, records, {"default", "", 4});
  ASSERT_EQ(e.questions.size(), 3u);
  EXPECT_EQ(e.questions[0].shown, "Tell me about the cat of day 0.");
  EXPECT_EQ(e.questions[0].label, "The cat was happy.");
  EXPECT_EQ(e.all.questions, 3);
  // Greedy: the same again.
  const Evaluation again = evaluate(generator, records, {"default", "", 4});
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(e.questions[i].prediction, again.questions[i].prediction);
}

TEST_F(HeldOut, TheResultIsEvaluatedWhereThereIsOne) {
  const train::Config c = config({"eval_dataset=" + at("test.jsonl")});
  EXPECT_EQ(evaluated_model(c), at("base"));
  test::make_small_model(work_ / "out");
  EXPECT_EQ(evaluated_model(c), at("out"));
}

}  // namespace
}  // namespace attune::eval
