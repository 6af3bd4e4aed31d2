// `attune data` on preference pairs and judged answers.
#include <map>
#include <set>

#include "cli/program.h"

namespace attune {
namespace {

using namespace test;

class PairData : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new Workspace;
    make_small_model(*work_ / "model");
    std::string pairs, judged;
    for (int i = 0; i < 20; ++i) {
      pairs += fmt::format(R"({{"prompt":"Where is cat {0}?","chosen":"The cat {0} is here, and happy.","rejected":"The cat {0} is gone.","margin":{0}}})", i) + "\n";
      judged += fmt::format(R"({{"prompt":"Where is cat {0}?","completion":"The cat {0} is here.","label":{1}}})", i, i % 4 == 0) + "\n";
    }
    work_->write("pairs.jsonl", pairs);
    work_->write("judged.jsonl", judged);
  }
  static void TearDownTestSuite() { delete work_; }
  static std::string at(const std::string& name) { return (*work_ / name).string(); }
  static Result data(const char* verb, const std::string& stage, const std::string& file, std::vector<std::string> more = {}) {
    std::vector<std::string> all{"data", verb, "stage=" + stage, "dataset=" + at(file), "model_name_or_path=" + at("model"), "template=default", "cutoff_len=96"};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }
  static Workspace* work_;
};
Workspace* PairData::work_ = nullptr;

TEST_F(PairData, InspectShowsThePromptOnceAndWhereTheAnswersPart) {
  const Result shown = data("inspect", "dpo", "pairs.jsonl", {"--row", "3"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_TRUE(says(shown.out, "pairs.jsonl:3  (preference pair, margin 2;")) << shown.out;
  EXPECT_TRUE(says(shown.out, "[[The cat 2 is]]‖[[ here, and happy.")) << shown.out;
  EXPECT_TRUE(says(shown.out, "[[The cat 2 is]]‖[[ gone.")) << shown.out;
  EXPECT_EQ(shown.out.find("Where is cat 2?"), shown.out.rfind("Where is cat 2?"));
  const Json row = parse_json(lines_of(data("inspect", "rm", "pairs.jsonl", {"--json", "--row", "3"}).out).at(0), "inspect");
  const size_t prompt = row["prompt_tokens"], parts = row["parts_at"];
  EXPECT_GT(parts, prompt);
  for (size_t i = 0; i < parts; ++i) EXPECT_EQ(row["chosen"]["ids"][i], row["rejected"]["ids"][i]);
  EXPECT_NE(row["chosen"]["ids"][parts], row["rejected"]["ids"][parts]);
  for (const char* side : {"chosen", "rejected"})
    for (size_t i = 0; i < row[side]["ids"].size(); ++i) EXPECT_EQ(row[side]["weights"][i], i < prompt ? 0 : 1);
  EXPECT_EQ(data("inspect", "dpo", "pairs.jsonl", {"--html", at("pairs.html")}).code, 0);
  EXPECT_TRUE(says(read_file(at("pairs.html")), "<i title=\"here the answers part\">"));
  const Result judged = data("inspect", "kto", "judged.jsonl", {"--count", "2"});
  EXPECT_TRUE(says(judged.out, "a desirable answer")) << judged.out;
  EXPECT_TRUE(says(judged.out, "an undesirable answer")) << judged.out;
  EXPECT_TRUE(says(judged.out, "the answer of another row")) << judged.out;
  const Json judged_row = parse_json(lines_of(data("inspect", "kto", "judged.jsonl", {"--json", "--row", "1"}).out).at(0), "inspect");
  EXPECT_EQ(judged_row["desirable"], true);
  EXPECT_NE(judged_row["ids"], judged_row["mismatched"]["ids"]);
}

TEST_F(PairData, StatsTellOfTheLengthBias) {
  const Json pairs = parse_json(data("stats", "dpo", "pairs.jsonl", {"--json"}).out, "stats");
  EXPECT_EQ(pairs["rows"], 20);
  EXPECT_EQ(pairs["samples"], 20);
  EXPECT_EQ(pairs["longer_chosen_share"], 1.0);
  EXPECT_EQ(pairs["equal_length_share"], 0.0);
  EXPECT_GT(pairs["chosen_length"]["median"].get<int>(), pairs["rejected_length"]["median"].get<int>());
  const Json judged = parse_json(data("stats", "kto", "judged.jsonl", {"--json"}).out, "stats");
  EXPECT_EQ(judged["samples"], 20);
  EXPECT_EQ(judged["desirable"], 5);
  EXPECT_EQ(judged["undesirable"], 15);
  // The mismatched answers are no data of their own.
  EXPECT_LT(judged["tokens"].get<int>(), 20 * 60);
}

// A pair is on one side of the split, whole.
TEST_F(PairData, HoldingOutNeverPartsAPair) {
  for (const char* held : {"val_size=0.3", "val_size=1", "val_size=7"}) {
    const Result r = data("inspect", "dpo", "pairs.jsonl", {"--json", "--count", "100", held});
    std::set<std::string> places;
    for (const std::string& line : lines_of(r.out)) {
      const Json row = parse_json(line, "inspect");
      EXPECT_TRUE(places.insert(row["where"]).second);
      const size_t prompt = row["prompt_tokens"];
      EXPECT_GT(prompt, 5u);
      for (size_t i = 0; i < prompt; ++i) EXPECT_EQ(row["chosen"]["ids"][i], row["rejected"]["ids"][i]);
    }
    const std::string number = std::string(held).substr(9);
    EXPECT_EQ(places.size(), number == "0.3" ? 14u : number == "1" ? 19u : 13u) << held;
    EXPECT_EQ(parse_json(data("stats", "dpo", "pairs.jsonl", {"--json", held}).out, "stats")["validation_samples"], 20 - static_cast<int>(places.size()));
  }
  // Rows are counted, not samples.
  EXPECT_EQ(lines_of(data("inspect", "dpo", "pairs.jsonl", {"--json", "--count", "100", "max_samples=6"}).out).size(), 6u);
  EXPECT_EQ(lines_of(data("inspect", "kto", "judged.jsonl", {"--json", "--count", "100", "max_samples=6", "packing=true"}).out).size(), 6u);
}

TEST_F(PairData, ValidateNamesEveryRowThatIsNotUsed) {
  const std::string bad = work_->write("bad.jsonl", R"({"prompt":"q","chosen":"a"}
{"prompt":"q","chosen":"a","rejected":"a"}
{"instruction":"q","output":"a"}
{"conversations":[{"from":"human","value":"q"},{"from":"observation","value":"1"}],"tools":"[]","chosen":"a","rejected":"b"}
)").string();
  const Result r = data("validate", "dpo", "bad.jsonl");
  EXPECT_EQ(r.code, 1);
  EXPECT_TRUE(says(r.out, "bad.jsonl:1: dropped: \"rejected\" is missing")) << r.out;
  EXPECT_TRUE(says(r.out, "bad.jsonl:2: dropped: chosen and rejected are the same")) << r.out;
  EXPECT_TRUE(says(r.out, "bad.jsonl:3: dropped: it has \"output\" like questions with answers")) << r.out;
  EXPECT_FALSE(says(r.out, "bad.jsonl:4: dropped")) << r.out;
  EXPECT_EQ(run({"data", "validate", "--file", at("pairs.jsonl"), "--stage", "dpo"}).code, 0);
  EXPECT_EQ(run({"data", "validate", "--file", at("judged.jsonl"), "--stage", "kto"}).code, 0);
  const Result wrong = run({"data", "validate", "--file", at("pairs.jsonl")});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_TRUE(says(wrong.out, "for stage rm or dpo; stage sft needs")) << wrong.out;
  EXPECT_EQ(run({"data", "validate", "--file", at("pairs.jsonl"), "--stage", "ppo"}).code, 2);
  expect_failure(data("stats", "sft", "judged.jsonl"), 2, "for stage kto; stage sft needs");
}

TEST_F(PairData, ValidateOfAStreamGoesThroughAWholePass) {
  work_->write("long.jsonl", small_alpaca(30) + "not JSON\n" + small_alpaca(3));
  const Result r = data("validate", "sft", "long.jsonl", {"streaming=true", "buffer_size=4", "max_steps=1"});
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_TRUE(says(r.out, "long.jsonl:31: dropped: not valid JSON")) << r.out;
  EXPECT_TRUE(says(r.err, "34 rows read")) << r.err;
}

TEST_F(PairData, ConvertWritesOneCanonicalFormThatReadsBack) {
  for (const auto& [file, to, stage] : {std::tuple{"pairs.jsonl", "preference", "dpo"}, {"judged.jsonl", "kto", "kto"}}) {
    const std::string out = at(std::string(to) + "_out.jsonl");
    EXPECT_EQ(run({"data", "convert", at(file), "--to", to, "--out", out}).code, 0);
    const std::string again = run({"data", "convert", out, "--to", to, "--from", to}).out;
    EXPECT_EQ(again, read_file(out));
    EXPECT_EQ(lines_of(again).size(), 20u);
    const auto ids = [&](const std::string& name) { return parse_json(lines_of(data("inspect", stage, name, {"--json", "--row", "9"}).out).at(0), "x"); };
    Json before = ids(file), after = ids(std::string(to) + "_out.jsonl");
    for (const char* key : {"where", "data_set"}) before.erase(key), after.erase(key);
    EXPECT_EQ(before, after);
  }
  EXPECT_TRUE(says(run({"data", "convert", at("judged.jsonl"), "--to", "preference"}).err, "for stage kto; stage rm or dpo needs"));
}

}  // namespace
}  // namespace attune
