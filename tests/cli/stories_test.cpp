// A real small model against a float64 reference. Its weights are not in the repository: where ../shared has them.
#include "cli/program.h"

namespace attune {
namespace {

using namespace test;

class Stories : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = fs::path(ATTUNE_ROOT).parent_path() / "shared/models/stories260k";
    if (!fs::exists(model_ / "model.safetensors")) GTEST_SKIP() << model_ << " is not here";
    reference_ = read_json(fs::path(ATTUNE_FIXTURES) / "models/stories260k_reference.json");
  }
  fs::path model_;
  Json reference_;
  Workspace work_;
};

TEST_F(Stories, ScoreEqualsTheReferencePerToken) {
  std::string text;
  for (const Json& line : reference_["lines"]) text += line["text"].get<std::string>() + "\n";
  const std::string file = work_.write("lines.txt", text).string();
  for (const auto& [compute, tolerance] : std::vector<std::pair<std::string, double>>{{"float32", 1e-4}, {"bf16", 3e-2}}) {
    const Result r = run({"score", "--model", model_.string(), "--file", file, "--compute", compute});
    ASSERT_EQ(r.code, 0) << r.err;
    const auto lines = lines_of(r.out);
    ASSERT_EQ(lines.size(), reference_["lines"].size());
    double worst = 0, sum = 0;
    int64_t count = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      const Json row = parse_json(lines[i], "score"), &wanted = reference_["lines"][i];
      ASSERT_EQ(row["ids"], wanted["ids"]) << i;
      ASSERT_EQ(row["nll"].size(), wanted["nll"].size());
      for (size_t t = 0; t < row["nll"].size(); ++t, ++count) {
        sum += row["nll"][t].get<double>();
        worst = std::max(worst, std::abs(row["nll"][t].get<double>() - wanted["nll"][t].get<double>()));
      }
    }
    if (compute == "float32") {
      EXPECT_LT(worst, tolerance);
    }
    EXPECT_NEAR(sum / static_cast<double>(count), reference_["mean_nll"].get<double>(), tolerance) << compute;
    RecordProperty("worst_" + compute, std::to_string(worst));
    std::printf("%s: worst token off by %.2g\n", compute.c_str(), worst);
  }
}

TEST_F(Stories, GreedyTextIsTheReferences) {
  const Json& wanted = reference_["generation"];
  const Result r = run({"generate", "--model", model_.string(), "--prompt", wanted["prompt"].get<std::string>(), "--max-new-tokens",
                        std::to_string(wanted["greedy"].size()), "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json json = parse_json(r.out, "generate");
  EXPECT_EQ(json["prompt_ids"], wanted["prompt_ids"]);
  EXPECT_GE(wanted["greedy"].size(), 200u);
  EXPECT_EQ(json["ids"], wanted["greedy"]);
}

}  // namespace
}  // namespace attune
