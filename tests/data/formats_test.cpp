// Tables, wrapped lists, the names that other tools give to columns, and what is too unclear to be read.
#include <algorithm>

#include "data/readers.h"
#include "support/workspace.h"

namespace attune::data {
namespace {

using test::error_of;
using test::Workspace;
using List = std::vector<std::string>;
using Action = DataReport::Action;

struct Read {
  Records records;
  DataReport report;
  List contents(size_t row) const {
    List out;
    for (const auto& m : records.rows.at(row).conversation.messages) out.push_back(m.content);
    return out;
  }
  List reasons() const {
    List out;
    for (const auto& e : report.entries()) out.push_back(std::string(DataReport::name_of(e.action)) + ": " + e.reason);
    return out;
  }
};

class Formats : public ::testing::Test {
 protected:
  Read read(const std::string& name, const std::string& content, ReadOptions options = {}) {
    Read r;
    read_records(work_.write(name, content), options, r.records, r.report);
    return r;
  }
  List row(const std::string& content) { return read("row.jsonl", content).contents(0); }
  std::string refused(const std::string& name, const std::string& content, ReadOptions options = {}) {
    return error_of([&] { read(name, content, options); });
  }
  Workspace work_;
};

TEST_F(Formats, TablesHaveQuotesLineBreaksAndLines) {
  const Read r = read("x.csv", "\xEF\xBB\xBFquestion,answer\r\n\"a, \"\"b\"\"\nc\",d\r\n\r\n5\" pipe,\"\"\n,e\nq,a,b\nq,\"a\"b\nq,a");
  ASSERT_EQ(r.records.rows.size(), 3u);
  EXPECT_EQ(r.contents(0), (List{"a, \"b\"\nc", "d"}));
  EXPECT_EQ(r.records.rows[0].source.line, 2);
  EXPECT_EQ(r.contents(1), (List{"", "e"}));
  EXPECT_EQ(r.contents(2), (List{"q", "a"}));
  EXPECT_EQ(r.records.rows[2].source.line, 9);
  // An empty answer, too many fields, something behind a quote: each with its line.
  ASSERT_EQ(r.report.entries().size(), 3u);
  EXPECT_NE(r.report.entries()[0].where.find("x.csv:5"), std::string::npos);
  EXPECT_NE(r.report.entries()[0].reason.find("no answer"), std::string::npos);
  EXPECT_EQ(r.report.entries()[1].reason.substr(0, 38), "the row has 3 fields, the header has 2");
  EXPECT_NE(r.report.entries()[2].reason.find("behind the closing quote"), std::string::npos);
  EXPECT_NE(refused("open.csv", "question,answer\nq,a\nq,\"a\nq,a\n").find("open.csv:3: a quote in this row is never closed"), std::string::npos);
  EXPECT_NE(refused("twice.csv", "question,question\nq,a\n").find("\"question\" twice"), std::string::npos);
}

TEST_F(Formats, TablesAreToldByTheirContent) {
  const List expected{"S", "q1, or", "a1"};
  EXPECT_EQ(read("x.tsv", "query\tresponse\tsystem\nq1, or\ta1\tS\n").contents(0), expected);
  // The name lies, or says nothing.
  EXPECT_EQ(read("tab.csv", "query\tresponse\tsystem\nq1, or\ta1\tS\n").contents(0), expected);
  EXPECT_EQ(read("table.data", "query;response;system\nq1, or;a1;S\n").contents(0), expected);
  EXPECT_EQ(read("table.txt", "prompt,response\nq,a\n").contents(0), (List{"q", "a"}));
  EXPECT_EQ(read("rows.csv", R"({"prompt":"q","response":"a"})").contents(0), (List{"q", "a"}));
  EXPECT_EQ(read("label.csv", "text,label\nI lost my card,card_lost\n").contents(0), (List{"I lost my card", "card_lost"}));
  EXPECT_EQ(read("list.txt", R"( [ {"prompt":"q","response":"a"} ] )").contents(0), (List{"q", "a"}));
  EXPECT_NE(refused("names.csv", "a,b\n1,2\n").find("the row has \"a\", \"b\""), std::string::npos);
  // Documents with commas stay documents.
  const Read text = read("corpus.txt", "question, answer\nthe second, too\n", {RowKind::text, 0});
  EXPECT_EQ(text.records.rows.size(), 2u);
}

TEST_F(Formats, ListsInsideAnObjectAreItsRows) {
  const std::string rows = "[\n {\"prompt\":\"q1\",\"response\":\"a1\"},\n {\"prompt\":\"q2\",\"response\":\"a2\"}]";
  for (const std::string& content : {"{\"version\": \"1.0\", \"data\": " + rows + "}", "{\n  \"data\":\n" + rows + ",\n \"tags\": [1, 2]\n}\n"}) {
    const Read r = read("wrapped.json", content);
    ASSERT_EQ(r.records.rows.size(), 2u) << content;
    EXPECT_EQ(r.contents(1), (List{"q2", "a2"}));
    EXPECT_EQ(r.records.rows[1].source.line - r.records.rows[0].source.line, 1);
  }
  // One row alone, on one line or many.
  EXPECT_EQ(read("one.json", "{\"conversations\": [{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"a\"}]}").contents(0), (List{"q", "a"}));
  EXPECT_EQ(read("many.json", "{\n\"messages\": [\n{\"role\":\"user\",\"content\":\"q\"},\n{\"role\":\"assistant\",\"content\":\"a\"}]\n}\n").contents(0), (List{"q", "a"}));
  EXPECT_NE(refused("two.json", "{\"train\": [{\"prompt\":\"q\"}],\n\"test\": [{\"prompt\":\"q\"}]}").find("several lists of rows (\"train\", \"test\")"), std::string::npos);
}

TEST_F(Formats, OtherToolsNamesForQuestionAndAnswer) {
  for (const char* keys : {"question answer", "prompt response", "query response", "prompt completion", "problem solution", "input output", "instruction response"}) {
    const std::string both = keys, q = both.substr(0, both.find(' ')), a = both.substr(both.find(' ') + 1);
    EXPECT_EQ(row(fmt::format(R"({{"{}":"Q","{}":"A","id":7}})", q, a)), (List{"Q", "A"})) << keys;
  }
  EXPECT_EQ(row(R"({"system":"S","query":"q","response":"a","history":[["q0","a0"]]})"), (List{"S", "q0", "a0", "q", "a"}));
  EXPECT_EQ(row(R"({"system":null,"conversation":[{"human":"q1","assistant":"a1"},{"human":"q2","assistant":"a2"}]})"), (List{"q1", "a1", "q2", "a2"}));
  EXPECT_EQ(row(R"({"conversations":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})"), (List{"q", "a"}));
  EXPECT_EQ(row(R"({"messages":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]})"), (List{"q", "a"}));
  EXPECT_EQ(row(R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]})"), (List{"q", "a"}));
  // LLaMA-Factory's newer parts have "value".
  EXPECT_EQ(row(R"({"messages":[{"role":"user","content":[{"type":"text","value":"q"}]},{"role":"assistant","content":[{"type":"text","value":"a"}]}]})"), (List{"q", "a"}));
}

TEST_F(Formats, WhatIsUnclearIsRefusedWithTheWayToSayIt) {
  const std::string good = R"({"prompt":"q","response":"a"})";
  const auto reason = [&](const std::string& bad) {
    const Read r = read("x.jsonl", good + "\n" + bad + "\n");
    return r.report.entries().size() == 1 ? r.report.entries()[0].reason : "";
  };
  const std::string two = reason(R"({"prompt":"p","question":"q","answer":"a"})");
  EXPECT_NE(two.find("could both be the question"), std::string::npos);
  EXPECT_NE(two.find(R"("columns": {"prompt": "question", "response": "answer"})"), std::string::npos) << two;
  EXPECT_NE(reason(R"({"prompt":"p","output":"o","answer":"a"})").find("could both be the answer"), std::string::npos);
  EXPECT_NE(reason(R"({"question":"p","context":"c","answer":"a"})").find("\"context\""), std::string::npos);
  EXPECT_NE(reason(R"({"question":"q","A":"1","B":"2","C":"3","answer":"A"})").find("multiple-choice"), std::string::npos);
  EXPECT_NE(reason(R"({"conversations":[],"messages":[]})").find("could both be the conversation"), std::string::npos);
  // Rows that would teach the wrong thing.
  EXPECT_NE(reason(R"({"prompt":"q","chosen":"a","rejected":"b"})").find("stage rm or dpo"), std::string::npos);
  EXPECT_NE(reason(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}],"label":false})").find("KTO"), std::string::npos);
}

TEST_F(Formats, BytesThatAreNoUtf8AreNamedByTheirPlace) {
  const std::string good = "{\"text\":\"x y\"}\n";
  const Read r = read("x.jsonl", good + "{\"text\":\"a\xC3(\"}\n" + good, {RowKind::text, 0});
  EXPECT_EQ(r.records.rows.size(), 2u);
  EXPECT_EQ(r.reasons(), (List{fmt::format("dropped: invalid UTF-8 at byte {} of the file", good.size() + 10)}));
  EXPECT_EQ(read("x.txt", "one\n\xFFtwo\n", {RowKind::text, 0}).reasons(), (List{"dropped: invalid UTF-8 at byte 4 of the file"}));
}

TEST_F(Formats, AnyBytesOfATableOrAnObjectAreReadOrRefused) {
  const std::string table = "question,answer\r\n\"a, \"\"b\"\"\nc\",d\nq,a\n";
  const std::string object = R"({"v": 1, "data": [{"prompt":"q","response":"a"}, {"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null}]}]})";
  uint64_t state = 1;
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = i % 2 ? table : object;
    for (int k = 0; k < 3; ++k) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      bytes[(state >> 33) % bytes.size()] = "[]{}\",:\\\n\t;x\0\xff"[(state >> 20) % 15];
    }
    (void)refused(i % 2 ? "fuzz.csv" : "fuzz.json", bytes);
    (void)refused("cut.csv", table.substr(0, static_cast<size_t>(i) % table.size()));
  }
}

TEST_F(Formats, RowsHaveWeights) {
  const Read r = read("x.jsonl", "{\"prompt\":\"q\",\"response\":\"a\",\"weight\":0.5}\n{\"prompt\":\"q\",\"response\":\"a\"}\n{\"prompt\":\"q\",\"response\":\"a\",\"weight\":-1}\n");
  EXPECT_EQ(r.records.rows.at(0).weight, 0.5f);
  EXPECT_EQ(r.records.rows.at(1).weight, 1.0f);
  ASSERT_EQ(r.report.entries().size(), 1u);
  EXPECT_NE(r.report.entries()[0].reason.find("\"weight\" of the row"), std::string::npos);
  EXPECT_EQ(read("x.csv", "prompt,response,weight\nq,a,2\n").records.rows.at(0).weight, 2.0f);
}

// What becomes of a conversation, as "role:content" with what was said about it.
struct Mended {
  List turns, notes;
};

class Turns : public Formats {
 protected:
  Mended of(const std::string& turns) {
    const std::string good = R"({"prompt":"q","response":"a"})";
    const Read r = read("t.jsonl", good + "\n{\"conversations\":[" + turns + "]}\n");
    Mended out;
    if (r.records.rows.size() == 2)
      for (const auto& m : r.records.rows[1].conversation.messages) out.turns.push_back(m.role + ":" + m.content + (m.weight == 1 ? "" : "*"));
    out.notes = r.reasons();
    return out;
  }
  static std::string turn(const std::string& from, const std::string& value) { return fmt::format(R"({{"from":"{}","value":"{}"}})", from, value); }
};

TEST_F(Turns, EndsThatAreNoExchangeAreLeftOut) {
  const std::string q = turn("human", "q"), a = turn("gpt", "a"), s = turn("system", "s");
  const Mended both = of(s + "," + turn("gpt", "hello") + "," + q + "," + a + "," + turn("human", "more?"));
  EXPECT_EQ(both.turns, (List{"system:s", "user:q", "assistant:a"}));
  EXPECT_EQ(both.notes, (List{"mended: turns before the first question are left out", "mended: turns behind the last answer are left out"}));
  EXPECT_EQ(of(q + "," + a).notes, List{});
  EXPECT_EQ(of(a + "," + q).notes, (List{"dropped: nothing is left: no answer follows a question"}));
  EXPECT_EQ(of(q).turns, List{});
}

TEST_F(Turns, NeighboursOfOneRoleAreJoined) {
  const Mended m = of(turn("human", "q1") + "," + turn("human", "q2") + "," + turn("gpt", "a1") + "," + turn("gpt", "a2"));
  EXPECT_EQ(m.turns, (List{"user:q1\nq2", "assistant:a1\na2"}));
  EXPECT_EQ(m.notes, (List{"mended: assistant turns that follow each other are joined by a line break", "mended: user turns that follow each other are joined by a line break"}));
  // Nothing that one turn cannot say is joined.
  const std::string call = R"({"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"})";
  EXPECT_EQ(of(turn("human", "q") + "," + turn("gpt", "let me see") + "," + call + "," + turn("observation", "1") + "," + turn("gpt", "one")).turns.size(), 5u);
  EXPECT_EQ(of(turn("human", "q") + "," + turn("gpt", "a") + R"(,{"from":"gpt","value":"b","weight":0})").turns, (List{"user:q", "assistant:a", "assistant:b*"}));
}

TEST_F(Turns, EmptyAndNullTurnsAreNamed) {
  const Mended empty = of(turn("human", "q1") + R"(,{"from":"gpt","value":null},)" + turn("human", "q2") + "," + turn("gpt", "a2"));
  EXPECT_EQ(empty.turns, (List{"user:q1", "assistant:*", "user:q2", "assistant:a2"}));
  EXPECT_EQ(empty.notes, (List{"mended: an empty answer is read but not learnt"}));
  EXPECT_EQ(of(R"({"from":"human","value":null},)" + turn("gpt", "a")).notes, (List{"mended: a user turn is null; it is read as an empty one"}));
  // An empty last answer teaches silence.
  EXPECT_EQ(of(turn("human", "q1") + "," + turn("gpt", "a1") + "," + turn("human", "q2") + "," + turn("gpt", "")).turns, (List{"user:q1", "assistant:a1"}));
}

TEST_F(Turns, WhatIsLearntOtherwiseThanOneMightThinkIsNoted) {
  EXPECT_EQ(of(R"({"from":"human","value":"q","weight":1},)" + turn("gpt", "a")).notes.at(0).substr(0, 37), "noted: a user turn has a loss weight,");
  EXPECT_EQ(of(R"({"from":"human","value":"q","weight":0},)" + turn("gpt", "a")).notes, List{});
  EXPECT_NE(of(turn("human", "q") + "," + turn("gpt", "I am {{name}}.")).notes.at(0).find("placeholders"), std::string::npos);
  EXPECT_NE(read("c.csv", "text,category\nx y,z\n").reasons().at(0).find("other columns are not used"), std::string::npos);
}

}  // namespace
}  // namespace attune::data
