// Formats into each other: nothing is lost without being said.
#include "data/convert.h"

#include "data/readers.h"
#include "support/workspace.h"

namespace attune::data {
namespace {

using test::Workspace;

class Convert : public ::testing::Test {
 protected:
  Record record(const std::string& row) {
    Records records;
    DataReport report;
    read_records(work_.write("row.jsonl", row + "\n"), {}, records, report);
    return records.rows.at(0);
  }
  std::string to(const std::string& row, Format format) {
    lost_.clear();
    return dump_json(to_row(record(row), format, lost_));
  }
  Workspace work_;
  Notes lost_;
};

TEST_F(Convert, MessagesAndShareGptCarryToolCallsThereAndBack) {
  const std::string sharegpt =
      R"({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}, )"
      R"({"from": "observation", "value": "1"}, {"from": "gpt", "value": "a", "weight": 0.5}], "tools": "[{\"name\": \"f\"}]", "weight": 2.0})";
  const std::string messages = to(sharegpt, Format::messages);
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(to(messages, Format::sharegpt), sharegpt);
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(to(to(messages, Format::sharegpt), Format::messages), messages);
}

TEST_F(Convert, AlpacaHasHistoryAndSaysWhatItCannotSay) {
  const std::string alpaca = R"({"instruction": "q2", "input": "", "output": "a2", "system": "S", "history": [["q1", "a1"]]})";
  EXPECT_EQ(to(to(alpaca, Format::messages), Format::alpaca), alpaca);
  EXPECT_TRUE(lost_.empty());
  to(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0.5,"reasoning_content":"r"}]})", Format::alpaca);
  EXPECT_EQ(lost_.size(), 2u);
  EXPECT_THROW(to(R"({"messages":[{"role":"user","content":"q"},{"role":"tool","content":"1"},{"role":"assistant","content":"a"}]})", Format::alpaca), BadRow);
}

TEST_F(Convert, TextLosesWhoSpeaksAndBecomesNoConversation) {
  EXPECT_EQ(to(R"({"prompt":"q","response":"a"})", Format::text), R"({"text": "q\na"})");
  EXPECT_EQ(lost_.size(), 1u);
  EXPECT_EQ(to(R"({"text":"t"})", Format::text), R"({"text": "t"})");
  EXPECT_TRUE(lost_.empty());
  EXPECT_THROW(to(R"({"text":"t"})", Format::messages), BadRow);
  EXPECT_NE(test::error_of([] { parse_format("xml", "--to"); }).find("--to: unknown format"), std::string::npos);
}

}  // namespace
}  // namespace attune::data
