// Names → files and columns, as LLaMA-Factory's dataset_info.json has them; sampling; mixing.
#include "data/registry.h"

#include <algorithm>
#include <map>
#include <set>

#include "data/mixing.h"
#include "data/order.h"
#include "data/readers.h"
#include "support/workspace.h"

namespace attune::data {
namespace {

using test::error_of;
using test::Workspace;
using List = std::vector<std::string>;

class Registry : public ::testing::Test {
 protected:
  void info(const std::string& entries) { work_.write("dataset_info.json", "{" + entries + "}"); }
  Records read(const std::string& name, ReadOptions options = {}) {
    Records records;
    report_ = {};
    read_records(find_data_set(name, work_.path()), options, records, report_);
    return records;
  }
  List first(const std::string& name, ReadOptions options = {}) {
    const Records records = read(name, options);
    List out;
    for (const auto& m : records.rows.at(0).conversation.messages) out.push_back(m.role + ":" + m.content);
    if (out.empty()) out = {records.rows[0].text};
    return out;
  }
  std::string error(const std::string& name, ReadOptions options = {}) {
    return error_of([&] { read(name, options); });
  }
  Workspace work_;
  DataReport report_;
};

TEST_F(Registry, MapsColumnsOfAlpacaRows) {
  work_.write("qa.json", R"([{"question":"q","context":"c","answer":"a","note":"n","past":[["q0","a0"]],"sys":"S"}])");
  info(R"("law": {"file_name": "qa.json", "columns": {"prompt": "question", "query": "context", "response": "answer", "history": "past", "system": "sys"}})");
  EXPECT_EQ(first("law"), (List{"system:S", "user:q0", "assistant:a0", "user:q\nc", "assistant:a"}));
  // Only what is named is used.
  info(R"("law": {"file_name": "qa.json", "formatting": "alpaca", "columns": {"prompt": "question", "response": "note"}})");
  EXPECT_EQ(first("law"), (List{"user:q", "assistant:n"}));
  // A prompt alone is text.
  info(R"("law": {"file_name": "qa.json", "columns": {"prompt": "context"}})");
  EXPECT_EQ(first("law", {RowKind::text, 0}), (List{"c"}));
}

TEST_F(Registry, MapsTurnsByTags) {
  work_.write("chat.jsonl", R"({"talk":[{"who":"doctor","says":"Hello"},{"who":"patient","says":"q"},{"who":"doctor","says":"a"}],"prompt":"ignored","extra":1})");
  info(R"("chat": {"file_name": "chat.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk"},
       "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "patient", "assistant_tag": "doctor"}})");
  EXPECT_EQ(first("chat"), (List{"user:q", "assistant:a"}));
  EXPECT_EQ(report_.count(DataReport::Action::mended), 1);
  work_.write("open.jsonl", R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})");
  info(R"("open": {"file_name": "open.jsonl", "formatting": "openai"}, "chat": {"file_name": "open.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"},
       "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}})");
  EXPECT_EQ(first("open"), (List{"user:q", "assistant:a"}));
  EXPECT_EQ(first("chat"), (List{"user:q", "assistant:a"}));
}

TEST_F(Registry, AMissingColumnIsNamedWithWhatTheRowHas) {
  work_.write("qa.jsonl", R"({"question":"q","answer":"a"})");
  info(R"("x": {"file_name": "qa.jsonl", "columns": {"prompt": "question", "response": "anwser"}}, "y": {"file_name": "qa.jsonl", "columns": {"prompt": "question", "response": "answer", "system": "persona"}},
          "z": {"file_name": "qa.jsonl", "formatting": "sharegpt"})");
  for (const auto& [name, column] : {std::pair{"x", "anwser"}, {"y", "persona"}, {"z", "conversations"}}) {
    const std::string message = error(name);
    for (const char* part : {"qa.jsonl", column, "\"question\", \"answer\"", "dataset_info.json"}) EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST_F(Registry, WhatCannotBeUsedIsRefusedWithWhatToDo) {
  work_.write("a.jsonl", R"({"prompt":"q","response":"a"})");
  const std::pair<const char*, const char*> cases[] = {
      {R"("x": {"hf_hub_url": "someone/x"})", "nothing is downloaded"},
      {R"("x": {"script_url": "x"})", "nothing is downloaded"},
      {R"("x": {"file_name": "a.jsonl", "ranking": true})", "preference"},
      {R"("x": {"file_name": "a.jsonl", "columns": {"prompt": "prompt", "kto_tag": "label"}})", "KTO"},
      {R"("x": {"file_name": "a.jsonl", "columns": {"prompt": "prompt", "images": "images"}})", "only text"},
      {R"("x": {"file_name": "a.jsonl", "split": "test"})", "split"},
      {R"("x": {"file_name": "nowhere.jsonl"})", "does not exist"},
      {R"("x": {"file_name": "a.jsonl", "formatting": "xml"})", "unknown formatting"},
      {R"("x": {"file_name": "a.jsonl", "colums": {}})", "unknown key \"colums\""},
      {R"("x": {"file_name": "a.jsonl", "columns": {"answer": "response"}})", "unknown key \"answer\""},
      {R"("x": {"file_name": "a.jsonl", "tags": {"user_tag": "u"}})", "tags need"},
      {R"("x": {"file_name": "a.jsonl", "num_samples": 0})", "num_samples"},
      {R"("x": 5)", "must be an object"},
      {R"("other": {"file_name": "a.jsonl"})", "names with local files are other"},
  };
  for (const auto& [entry, expected] : cases) {
    info(entry);
    EXPECT_NE(error("x").find(expected), std::string::npos) << entry << " → " << error("x");
  }
  // A hub entry with a local file is that file.
  info(R"("x": {"hf_hub_url": "someone/x", "file_name": "a.jsonl"})");
  EXPECT_EQ(error("x"), "");
}

TEST_F(Registry, NamesAreEntriesThenPathsThenFilesBelow) {
  const std::string row = R"({"prompt":"q","response":"a"})";
  work_.write("a.jsonl", row);
  work_.write("deep/b.csv", "prompt,response\nq,from csv\n");
  work_.write("deep/c/d.jsonl", row);
  work_.write("deep/notes.pdf", "x");
  work_.write("deep/.hidden.jsonl", "x");
  EXPECT_EQ(find_data_set("a", work_.path()).files, (std::vector<fs::path>{work_ / "a.jsonl"}));
  EXPECT_EQ(find_data_set((work_ / "a.jsonl").string(), "/nowhere").files.size(), 1u);
  EXPECT_EQ(find_data_set("deep", work_.path()).files, (std::vector<fs::path>{work_ / "deep/b.csv", work_ / "deep/c/d.jsonl"}));
  EXPECT_EQ(read("deep").rows.size(), 2u);
  info(R"("a": {"file_name": "deep"})");
  EXPECT_EQ(read("a").rows.size(), 2u);
  EXPECT_EQ(read("a", {RowKind::conversation, 1}).rows.size(), 1u);
  EXPECT_NE(error("nothing").find("neither a file or directory, nor a name in"), std::string::npos);
}

TEST_F(Registry, SamplesAreChosenBySeed) {
  std::string rows;
  for (int i = 0; i < 100; ++i) rows += fmt::format("{{\"prompt\":\"q\",\"response\":\"{}\"}}\n", i);
  work_.write("a.jsonl", rows);
  const auto answers = [&](const std::string& name, ReadOptions options) {
    List out;
    for (const auto& r : read(name, options).rows) out.push_back(r.conversation.messages[1].content);
    return out;
  };
  const List ten = answers("a#10", {});
  EXPECT_EQ(ten.size(), 10u);
  EXPECT_EQ(ten, answers("a#10", {}));
  EXPECT_NE(ten, answers("a#10", {RowKind::conversation, 0, 7}));
  EXPECT_EQ(std::set<std::string>(ten.begin(), ten.end()).size(), 10u);
  EXPECT_NE(ten.back(), "9");  // not simply the first
  // More than there are: all of them, some twice, as there.
  const List many = answers("a#150", {});
  EXPECT_EQ(many.size(), 150u);
  EXPECT_EQ(std::set<std::string>(many.begin(), many.end()).size(), 100u);
  EXPECT_EQ(answers("a#10", {RowKind::conversation, 4, 42}).size(), 4u);
  info(R"("small": {"file_name": "a.jsonl", "num_samples": 7})");
  EXPECT_EQ(answers("small", {}).size(), 7u);
  EXPECT_NE(error("a#0").find("at least 1"), std::string::npos);
}

TokenSet three_and_five() {
  TokenSet set;
  set.set_sources({"three", "five"});
  const std::vector<float> weights{0, 1};
  for (int32_t i = 0; i < 8; ++i) set.add(std::vector<int32_t>{i, i}, weights, fmt::format("x:{}", i), i < 3 ? 0 : 1);
  return set;
}
std::vector<int32_t> mixed(const MixOptions& options) {
  TokenSet set = three_and_five();
  mix(set, options);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < set.size(); ++i) {
    EXPECT_EQ(set.source(i), set.ids(i)[0] < 3 ? 0 : 1);
    EXPECT_EQ(set.where(i), fmt::format("x:{}", set.ids(i)[0]));
    out.push_back(set.ids(i)[0]);
  }
  return out;
}
std::map<int32_t, int> counts(const std::vector<int32_t>& items) {
  std::map<int32_t, int> out;
  for (int32_t i : items) ++out[i];
  return out;
}

TEST(Mixing, StrategiesStopWhereTheyShould) {
  EXPECT_EQ(mixed({}), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  // In turns: both lengths as datasets.interleave_datasets has them.
  const auto under = mixed({"interleave_under", {}, {}, 1}), over = mixed({"interleave_over", {}, {}, 1}), once = mixed({"interleave_once", {}, {}, 1});
  EXPECT_EQ(under.size(), 6u);
  EXPECT_EQ(over.size(), 10u);
  EXPECT_EQ(once.size(), 8u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(under[i] < 3, i % 2 == 0);
  EXPECT_EQ(counts(once).size(), 8u);
  EXPECT_EQ(counts(over).size(), 8u);
  EXPECT_EQ(counts(under).size(), 6u);
}

TEST(Mixing, ProbabilitiesAreKeptAndDeterministic) {
  TokenSet set;
  set.set_sources({"a", "b"});
  const std::vector<float> weights{0, 1};
  for (int32_t i = 0; i < 4000; ++i) set.add(std::vector<int32_t>{i, i}, weights, "x:1", i < 2000 ? 0 : 1);
  const auto share = [&](const MixOptions& options) {
    TokenSet copy = set;
    mix(copy, options);
    int64_t a = 0;
    for (int64_t i = 0; i < copy.size(); ++i) a += copy.source(i) == 0;
    return std::pair{static_cast<double>(a) / static_cast<double>(copy.size()), copy.fingerprint()};
  };
  for (const char* strategy : {"interleave_under", "interleave_over"}) EXPECT_NEAR(share({strategy, {3, 1}, {}, 1}).first, 0.75, 0.03) << strategy;
  EXPECT_EQ(share({"interleave_once", {3, 1}, {}, 1}).first, 0.5);
  EXPECT_EQ(share({"interleave_under", {3, 1}, {}, 1}).second, share({"interleave_under", {3, 1}, {}, 1}).second);
  EXPECT_NE(share({"interleave_under", {3, 1}, {}, 1}).second, share({"interleave_under", {3, 1}, {}, 2}).second);
  EXPECT_NE(share({"interleave_under", {3, 1}, {}, 1}).second, set.fingerprint());
}

TEST(Mixing, WeightsArePassesOverADataSet) {
  const auto c = counts(mixed({"concat", {}, {2, 0.4}, 1}));
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(c.at(i), 2);
  int five = 0;
  for (int32_t i = 3; i < 8; ++i) five += c.count(i) ? c.at(i) : 0;
  EXPECT_EQ(five, 2);
  EXPECT_EQ(mixed({"concat", {}, {1, 1}, 1}), mixed({}));
}

TEST(Mixing, OptionsThatDoNotFitAreRefused) {
  const auto error = [](const MixOptions& options) { return error_of([&] { check_mixing(options, 2); }); };
  EXPECT_NE(error({"interleave_under", {1}, {}, 1}).find("1 numbers for 2 data sets"), std::string::npos);
  EXPECT_NE(error({"interleave_under", {1, 0}, {}, 1}).find("interleave_probs: 0"), std::string::npos);
  EXPECT_NE(error({"concat", {1, 1}, {}, 1}).find("interleave_probs needs"), std::string::npos);
  EXPECT_NE(error({"interleave_over", {}, {1, 1}, 1}).find("dataset_weights needs"), std::string::npos);
  EXPECT_EQ(error({"interleave_over", {0.2, 0.8}, {}, 1}), "");
  EXPECT_NE(error_of([] { mixed({"interleave_over", {1e-9, 1}, {}, 1}); }).find("too seldom"), std::string::npos);
}

TEST(Mixing, RepeatedSamplesKeepTheirTokensOnceAndBatchesTakeThem) {
  TokenSet set = three_and_five();
  mix(set, {"concat", {}, {3, 1}, 1});
  EXPECT_EQ(set.size(), 14);
  EXPECT_EQ(set.total_tokens(), 28);
  EXPECT_EQ(set.labelled_tokens(), 14);
  const Batcher batches(set, {.micro_batch_size = 4});
  std::map<int32_t, int> seen;
  Step step;
  for (int64_t i = 0; i < batches.steps_in_epoch(0); ++i) {
    batches.make_step(0, i, step);
    for (const auto& batch : step.micro_batches)
      for (size_t t = 0; t < batch.tokens.size(); t += 2) ++seen[batch.tokens[t]];
  }
  for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(seen[i], i < 3 ? 3 : 1);
}

}  // namespace
}  // namespace attune::data
