// What each data format becomes, and how rows that cannot be used are told.
#include "data/readers.h"

#include <algorithm>

#include "support/workspace.h"

namespace attune::data {
namespace {

using test::error_of;
using test::Workspace;

struct Read {
  Records records;
  DataReport report;
};

class Readers : public ::testing::Test {
 protected:
  Read read(const std::string& name, const std::string& content, ReadOptions options = {}) {
    Read r;
    read_records(work_.write(name, content), options, r.records, r.report);
    return r;
  }
  // The only row of a file that holds nothing else.
  Record row(const std::string& content, ReadOptions options = {}) {
    Read r = read("row.jsonl", content, options);
    EXPECT_EQ(r.records.rows.size(), 1u);
    return r.records.rows.at(0);
  }
  // Why a row is refused.
  std::string reason(const std::string& content, ReadOptions options = {}) {
    const std::string good = options.kind == RowKind::text ? R"({"text":"x y"})" : R"({"instruction":"q","output":"a"})";
    Read r = read("rows.jsonl", good + "\n" + content + "\n", options);
    EXPECT_EQ(r.records.rows.size(), 1u) << content;
    EXPECT_EQ(r.report.entries().size(), 1u) << content;
    if (r.report.entries().size() != 1) return "";
    EXPECT_EQ(r.report.entries()[0].where, (work_ / "rows.jsonl").string() + ":2");
    EXPECT_EQ(r.report.entries()[0].action, DataReport::Action::dropped);
    return r.report.entries()[0].reason;
  }
  Workspace work_;
};

std::vector<std::string> roles(const Record& r) {
  std::vector<std::string> out;
  for (const auto& m : r.conversation.messages) out.push_back(m.role);
  return out;
}
std::vector<std::string> contents(const Record& r) {
  std::vector<std::string> out;
  for (const auto& m : r.conversation.messages) out.push_back(m.content);
  return out;
}
using List = std::vector<std::string>;

TEST_F(Readers, AlpacaWithSystemHistoryAndInput) {
  const Record r = row(R"({"system":"S","history":[["q1","a1"],["q2","a2"]],"instruction":"I","input":"X","output":"O"})");
  EXPECT_EQ(roles(r), (List{"system", "user", "assistant", "user", "assistant", "user", "assistant"}));
  EXPECT_EQ(contents(r), (List{"S", "q1", "a1", "q2", "a2", "I\nX", "O"}));
  EXPECT_EQ(contents(row(R"({"instruction":"I","input":"","output":"O"})")), (List{"I", "O"}));
  // As LLaMA-Factory joins them: what is empty adds no line.
  EXPECT_EQ(contents(row(R"({"instruction":"","input":"X","output":"O"})")), (List{"X", "O"}));
  EXPECT_EQ(contents(row(R"({"instruction":"I","input":null,"system":null,"history":null,"output":"O"})")), (List{"I", "O"}));
}

TEST_F(Readers, AlpacaThatCannotBeUsed) {
  EXPECT_EQ(reason(R"({"instruction":"q"})"), "\"output\" is missing");
  EXPECT_EQ(reason(R"({"instruction":"q","output":null})"), "\"output\" is missing");
  EXPECT_EQ(reason(R"({"instruction":null,"output":"a"})"), "\"instruction\" is missing");
  EXPECT_EQ(reason(R"({"instruction":"q","output":5})"), "\"output\" must be a string");
  EXPECT_NE(reason(R"({"instruction":"q","output":""})").find("no answer"), std::string::npos);
  for (const char* history : {"5", "\"x\"", "[[\"q\"]]", "[[\"q\",1]]", "[\"q\",\"a\"]", "{\"q\":\"a\"}"})
    EXPECT_NE(reason(fmt::format(R"({{"instruction":"q","output":"a","history":{}}})", history)).find("\"history\" must be"), std::string::npos) << history;
}

TEST_F(Readers, ShareGptWithToolsCallsAndObservations) {
  const Record r = row(
      R"({"system":"S","tools":"[{\"name\":\"f\"}]","conversations":[{"from":"human","value":"q"},)"
      R"({"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},{"from":"observation","value":"42"},{"from":"gpt","value":"a"}]})");
  EXPECT_EQ(roles(r), (List{"system", "user", "assistant", "tool", "assistant"}));
  EXPECT_EQ(contents(r), (List{"S", "q", "", "42", "a"}));
  EXPECT_EQ(r.conversation.tools_json, R"([{"name":"f"}])");
  const Json extra = parse_json(r.conversation.messages[2].extra_json, "test");
  EXPECT_EQ(extra["tool_calls"][0]["type"], "function");
  EXPECT_EQ(extra["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(extra["tool_calls"][0]["function"]["arguments"]["x"], 1);
  // Tools may be JSON themselves, several calls may stand in one turn.
  const Record two = row(R"({"tools":[{"name":"f"}],"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"[{\"name\":\"f\"},{\"name\":\"g\"}]"}]})");
  EXPECT_EQ(two.conversation.tools_json, R"([{"name": "f"}])");
  EXPECT_EQ(parse_json(two.conversation.messages[1].extra_json, "test")["tool_calls"].size(), 2u);
}

TEST_F(Readers, ShareGptSystemVariants) {
  EXPECT_EQ(contents(row(R"({"system_prompt":"S","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]})")), (List{"S", "q", "a"}));
  EXPECT_EQ(contents(row(R"({"conversations":[{"from":"system","value":"S"},{"from":"user","value":"q"},{"from":"assistant","value":"a"}]})")), (List{"S", "q", "a"}));
  // A turn of its own wins over the field: one system message, not two.
  EXPECT_EQ(contents(row(R"({"system":"F","conversations":[{"from":"system","value":"S"},{"from":"human","value":"q"},{"from":"gpt","value":"a"}]})")), (List{"S", "q", "a"}));
}

TEST_F(Readers, ShareGptThatCannotBeUsed) {
  EXPECT_NE(reason(R"({"conversations":"x"})").find("must be a list"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[]})").find("empty"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[1]})").find("must hold objects"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"value":"q"},{"from":"gpt","value":"a"}]})").find("\"from\" is missing"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"from":"human"},{"from":"gpt","value":"a"}]})").find("\"value\" is missing"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"from":"alien","value":"q"},{"from":"gpt","value":"a"}]})").find("unknown speaker \"alien\""), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"from":"gpt","value":"a"}]})").find("no user message"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"from":"human","value":"q"}]})").find("no answer"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"f x"}]})").find("function_call"), std::string::npos);
}

TEST_F(Readers, OpenAiMessagesWithWeightsAndParts) {
  const Record r = row(
      R"({"messages":[{"role":"developer","content":"S"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},)"
      R"({"role":"assistant","content":"one","weight":0},{"role":"user","content":"q"},{"role":"assistant","content":"two","loss":true},)"
      R"({"role":"user","content":"q"},{"role":"assistant","content":"three","loss_weight":0.5},{"role":"user","content":"q"},)"
      R"({"role":"assistant","content":"four","train":false}]})");
  EXPECT_EQ(contents(r), (List{"S", "ab", "one", "q", "two", "q", "three", "q", "four"}));
  EXPECT_EQ(r.conversation.messages[0].role, "system");
  std::vector<float> weights;
  for (const auto& m : r.conversation.messages)
    if (m.role == "assistant") weights.push_back(m.weight);
  EXPECT_EQ(weights, (std::vector<float>{0, 1, 0.5f, 0}));
  const Record call = row(
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]},)"
      R"({"role":"function","name":"f","content":"1"},{"role":"assistant","content":"a","reasoning_content":"because"}]})");
  EXPECT_EQ(roles(call), (List{"user", "assistant", "tool", "assistant"}));
  EXPECT_NE(call.conversation.messages[1].extra_json.find("tool_calls"), std::string::npos);
  EXPECT_NE(call.conversation.messages[3].extra_json.find("because"), std::string::npos);
}

TEST_F(Readers, MessagesThatCannotBeUsed) {
  const auto with = [](const std::string& message) {
    return R"({"messages":[{"role":"user","content":"q"},)" + message + "]}";
  };
  EXPECT_NE(reason(with(R"({"role":"assistant","content":[{"type":"image_url","image_url":"x"}]})")).find("not text"), std::string::npos);
  EXPECT_NE(reason(with(R"({"role":"assistant","content":5})")).find("content must be"), std::string::npos);
  EXPECT_NE(reason(with(R"({"role":"assistant","content":null})")).find("no answer"), std::string::npos);
  EXPECT_NE(reason(with(R"({"role":"wizard","content":"a"})")).find("unknown role \"wizard\""), std::string::npos);
  EXPECT_NE(reason(with(R"({"content":"a"})")).find("\"role\" is missing"), std::string::npos);
  EXPECT_NE(reason(with(R"({"role":"assistant","content":"a","weight":"yes"})")).find("\"weight\" must be"), std::string::npos);
  // A weight that would turn learning round, or make the loss infinite.
  EXPECT_NE(reason(with(R"({"role":"assistant","content":"a","weight":-1})")).find("\"weight\""), std::string::npos);
  EXPECT_NE(reason(with(R"({"role":"assistant","content":"a","weight":1e300})")).find("\"weight\""), std::string::npos);
  EXPECT_NE(reason(R"({"messages":null})").find("must be a list"), std::string::npos);
}

TEST_F(Readers, TextForPretraining) {
  const ReadOptions pt{RowKind::text, 0};
  EXPECT_EQ(row(R"({"text":" once \n"})", pt).text, " once \n");
  EXPECT_EQ(reason(R"({"text":" \n\t"})", pt), "the text is empty");
  EXPECT_EQ(reason(R"({"text":null})", pt), "\"text\" is missing");
  EXPECT_NE(reason(R"({"instruction":"q","output":"a"})", pt).find("stage pt needs plain text"), std::string::npos);
  const Read lines = read("corpus.txt", "\xEF\xBB\xBF" "one\r\n\r\n  \ntwo two\n\nthree", pt);
  ASSERT_EQ(lines.records.rows.size(), 3u);
  EXPECT_EQ(lines.records.rows[0].text, "one");
  EXPECT_EQ(lines.records.rows[1].text, "two two");
  EXPECT_EQ(lines.records.rows[1].source.line, 4);
  EXPECT_EQ(lines.records.rows[2].source.line, 6);
  // Text may begin with a bracket or a brace.
  EXPECT_EQ(read("list.txt", "[1] Smith et al.\nsecond\n", pt).records.rows[0].text, "[1] Smith et al.");
  EXPECT_EQ(read("brace.txt", "{not JSON\nsecond\n", pt).records.rows[0].text, "{not JSON");
  EXPECT_NE(error_of([&] { read("corpus.txt", "plain\n"); }).find("plain text is for stage pt"), std::string::npos);
}

TEST_F(Readers, ListAndLinesAreTheSameRows) {
  const std::string a = R"({"instruction":"q, [1]","output":"a \" ] } ,"})", b = R"({"instruction":"r","output":"b"})";
  const Read lines = read("x.jsonl", a + "\n" + b + "\n"), list = read("x.json", "\n [" + a + ",\n\n" + b + "\n]\n"),
             bom = read("bom.json", "\xEF\xBB\xBF[" + a + "," + b + "]"),
             windows = read("crlf.jsonl", "\xEF\xBB\xBF\r\n" + a + "\r\n\r\n   \r\n" + b + "\r\n");
  for (const Read* r : {&lines, &list, &bom, &windows}) {
    ASSERT_EQ(r->records.rows.size(), 2u);
    EXPECT_EQ(contents(r->records.rows[0]), (List{"q, [1]", "a \" ] } ,"}));
    EXPECT_EQ(contents(r->records.rows[1]), (List{"r", "b"}));
    EXPECT_TRUE(r->report.entries().empty());
    EXPECT_EQ(r->records.rows_read, 2);
  }
  EXPECT_EQ(list.records.rows[0].source.line, 2);
  EXPECT_EQ(list.records.rows[1].source.line, 4);
  EXPECT_EQ(windows.records.rows[1].source.line, 5);
  // The name says nothing: a list in .jsonl, lines in .json.
  EXPECT_EQ(read("list.jsonl", "[" + a + "," + b + "]").records.rows.size(), 2u);
  EXPECT_EQ(read("lines.json", a + "\n" + b).records.rows.size(), 2u);
}

TEST_F(Readers, OneBadRowDoesNotHideTheOthers) {
  const std::string good = R"({"instruction":"q","output":"a"})";
  const Read lines = read("x.jsonl", good + "\n{broken\n" + good + "\n[1]\n\"s\"\nnull\n{}\n" + good + "\n" + good.substr(0, 20));
  EXPECT_EQ(lines.records.rows.size(), 3u);
  EXPECT_EQ(lines.records.rows_read, 9);
  std::vector<std::string> places;
  for (const auto& e : lines.report.entries()) places.push_back(e.where.substr(e.where.rfind(':') + 1));
  EXPECT_EQ(places, (List{"2", "4", "5", "6", "7", "9"}));
  const Read list = read("x.json", "[" + good + ",\n{\"instruction\": oops},\n5,\n" + good + "]");
  EXPECT_EQ(list.records.rows.size(), 2u);
  ASSERT_EQ(list.report.entries().size(), 2u);
  EXPECT_NE(list.report.entries()[0].where.find("x.json:2"), std::string::npos);
  EXPECT_NE(list.report.entries()[1].where.find("x.json:3"), std::string::npos);
  EXPECT_EQ(list.report.entries()[1].reason, "a row must be a JSON object");
}

TEST_F(Readers, ReasonsTellBrokenJsonFromHostileJson) {
  EXPECT_NE(reason("{\"instruction\":").find("not valid JSON"), std::string::npos);
  EXPECT_NE(reason(R"({"instruction":"q","instruction":"q","output":"a"})").find("duplicate key"), std::string::npos);
  EXPECT_NE(reason("{\"instruction\":" + std::string(100000, '[') + "}").find("nested deeper"), std::string::npos);
  EXPECT_NE(reason(std::string("{\"instruction\":\"q\",\"output\":\"a\0b\"}", 34)).find("NUL"), std::string::npos);
  EXPECT_NE(reason("{\"instruction\":\"q\",\"output\":\"\xff\xfe\"}").find("invalid UTF-8 at byte"), std::string::npos);
  EXPECT_NE(reason("{\"instruction\":\"q\",\"output\":\"a\",\"x\":1e999}").find("not valid JSON"), std::string::npos);
}

TEST_F(Readers, FilesThatAreNoDataAreRefused) {
  const std::string good = R"({"instruction":"q","output":"a"})";
  EXPECT_NE(error_of([&] { read("empty.jsonl", ""); }).find("empty"), std::string::npos);
  EXPECT_NE(error_of([&] { read("blank.jsonl", "\n \r\n\t"); }).find("empty"), std::string::npos);
  EXPECT_NE(error_of([&] { read("emptylist.json", "[]"); }).find("none of its 0 rows"), std::string::npos);
  EXPECT_NE(error_of([&] { read("x.bin", "\x1f\x8b\x08"); }).find("not JSON"), std::string::npos);
  EXPECT_NE(error_of([&] { read("utf16.jsonl", std::string("\xff\xfe{\0", 4)); }).find("UTF-16"), std::string::npos);
  EXPECT_NE(error_of([&] { read("bad.jsonl", "{a\n{b\n"); }).find("bad.jsonl:1"), std::string::npos);
  // Cut in the middle, at every byte of the last row: never a crash, never a silent loss.
  const std::string list = "[" + good + ",\n" + good + "]";
  for (size_t n = good.size() + 2; n < list.size(); ++n)
    EXPECT_NE(error_of([&] { read("cut.json", list.substr(0, n)); }).find("cut off"), std::string::npos) << n;
  // Something behind the list would be lost.
  EXPECT_NE(error_of([&] { read("two.json", list + "\n" + list); }).find("behind"), std::string::npos);
  Records records;
  DataReport report;
  EXPECT_NE(error_of([&] { read_records(work_.path(), {}, records, report); }).find("not a regular file"), std::string::npos);
  EXPECT_NE(error_of([&] { read_records(work_ / "nowhere.jsonl", {}, records, report); }).find("does not exist"), std::string::npos);
}

TEST_F(Readers, AnyBytesAreReadOrRefused) {
  const std::string good = R"([{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]},{"instruction":"q","output":"a"}])";
  uint64_t state = 1;
  for (int i = 0; i < 500; ++i) {
    std::string bytes = good;
    for (int k = 0; k < 3; ++k) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      bytes[(state >> 33) % bytes.size()] = "[]{}\",:\\\n x\0\xff"[(state >> 20) % 13];
    }
    (void)error_of([&] { read("fuzz.json", bytes); });
  }
}

TEST_F(Readers, MaxSamplesCountsRowsOfEachFile) {
  const std::string good = R"({"instruction":"q","output":"a"})";
  Records records;
  DataReport report;
  for (const char* name : {"a.jsonl", "b.jsonl"}) read_records(work_.write(name, good + "\n{}\n" + good + "\n"), {RowKind::conversation, 2}, records, report);
  EXPECT_EQ(records.rows.size(), 2u);
  EXPECT_EQ(records.rows_read, 4);
  EXPECT_EQ(records.files.size(), 2u);
  EXPECT_EQ(records.rows[1].source.file, 1);
}

TEST_F(Readers, TheReportSaysWhatHappenedWhere) {
  DataReport report;
  for (int i = 1; i <= 5; ++i) report.add(DataReport::Action::dropped, "no answer", fmt::format("x.jsonl:{}", i));
  report.add(DataReport::Action::cut, "too long", "x.jsonl:9");
  EXPECT_EQ(report.count(DataReport::Action::dropped), 5);
  EXPECT_EQ(report.count(DataReport::Action::cut), 1);
  EXPECT_EQ(report.summary(), (List{"dropped 5 rows: no answer (x.jsonl:1, x.jsonl:2, x.jsonl:3, …)", "cut 1 row: too long (x.jsonl:9)"}));
  const std::string lines = report.jsonl();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 6);
  EXPECT_EQ(parse_json(lines.substr(0, lines.find('\n')), "report")["where"], "x.jsonl:1");
}

}  // namespace
}  // namespace attune::data
