// Preference pairs and judged answers: every shape that other tools write is the same record, and nothing is guessed.
#include "data/pairs.h"

#include "data/convert.h"
#include "data/readers.h"
#include "support/workspace.h"

namespace attune::data {
namespace {

using test::error_of;
using test::Workspace;
using Action = DataReport::Action;
using List = std::vector<std::string>;

struct Read {
  Records records;
  DataReport report;
};

List lines(const std::vector<text::Message>& messages, size_t begin, size_t end) {
  List out;
  for (size_t i = begin; i < end; ++i) out.push_back(messages[i].role + ":" + messages[i].content);
  return out;
}
List prompt(const Record& r) { return lines(r.conversation.messages, 0, r.prompt_messages); }
List chosen(const Record& r) { return lines(r.conversation.messages, r.prompt_messages, r.conversation.messages.size()); }
List rejected(const Record& r) { return lines(r.rejected, 0, r.rejected.size()); }

const std::string kPair = R"({"prompt":"q","chosen":"good","rejected":"bad"})", kJudged = R"({"prompt":"q","completion":"a","label":true})",
                  kExchange = R"({"instruction":"q","output":"a"})", kText = R"({"text":"x y"})";

class Rows : public ::testing::Test {
 protected:
  Read read(const std::string& content, RowKind kind, const std::string& name = "rows.jsonl") {
    Read r;
    read_records(work_.write(name, content), {kind, 0}, r.records, r.report);
    return r;
  }
  Record pair(const std::string& row) {
    Read r = read(row + "\n", RowKind::pair);
    EXPECT_EQ(r.records.rows.size(), 1u) << row;
    return r.records.rows.at(0);
  }
  Record judged(const std::string& row) { return read(row + "\n", RowKind::judged).records.rows.at(0); }
  // Why a row is not used, beside a good one.
  std::string reason(const std::string& row, RowKind kind = RowKind::pair) {
    const std::string good[] = {kText, kExchange, kPair, kJudged};
    const Read r = read(good[static_cast<size_t>(kind)] + "\n" + row + "\n", kind);
    EXPECT_EQ(r.records.rows.size(), 1u) << row;
    for (const auto& e : r.report.entries())
      if (e.action == Action::dropped) {
        EXPECT_EQ(e.where, (work_ / "rows.jsonl").string() + ":2");
        return e.reason;
      }
    return "";
  }
  Workspace work_;
};

TEST_F(Rows, EveryShapeOfAPairIsTheSameRecord) {
  const char* shapes[] = {
      // MedicalGPT; LLaMA-Factory sharegpt and alpaca, old and new; TRL; ms-swift.
      R"({"conversations":[{"from":"human","value":"q"}],"chosen":"good","rejected":"bad"})",
      R"({"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"good"},"rejected":{"from":"gpt","value":"bad"}})",
      R"({"instruction":"q","input":"","chosen":"good","rejected":"bad"})",
      R"({"instruction":"q","input":"","output":["good","bad"]})",
      R"({"prompt":"q","chosen":"good","rejected":"bad"})",
      R"({"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"good"}],"rejected":[{"role":"assistant","content":"bad"}]})",
      R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]})",
      // The prompt stands in both ways (ultrafeedback).
      R"({"prompt":"q","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]})",
      R"({"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected":"bad"})",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected_response":"bad"})",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected_messages":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]})",
      R"({"query":"q","response":"good","rejected_response":"bad"})",
      R"({"question":"q","chosen":"good","rejected":"bad"})"};
  for (const char* shape : shapes) {
    const Record r = pair(shape);
    EXPECT_EQ(prompt(r), (List{"user:q"})) << shape;
    EXPECT_EQ(chosen(r), (List{"assistant:good"})) << shape;
    EXPECT_EQ(rejected(r), (List{"assistant:bad"})) << shape;
    EXPECT_FALSE(r.margin) << shape;
    // The canonical form says the same.
    Notes lost;
    EXPECT_EQ(dump_json(to_row(r, Format::preference, lost)),
              R"({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]})") << shape;
  }
  const Read table = read("prompt,chosen,rejected,margin\n\"q, \"\"x\"\"\",good,bad,0.5\nq,good,bad,\n", RowKind::pair, "t.csv");
  EXPECT_EQ(prompt(table.records.rows.at(0)), (List{"user:q, \"x\""}));
  EXPECT_EQ(table.records.rows.at(0).margin, 0.5f);
  EXPECT_FALSE(table.records.rows.at(1).margin);
}

// TRL's implicit prompts as plain texts.
TEST_F(Rows, PlainTextsWithACommonBeginning) {
  const Record marked = pair(R"({"chosen":"\n\nHuman: first\n\nAssistant: one\n\nHuman: q\nand more\n\nAssistant: good\n\n1. x",)"
                             R"("rejected":"\n\nHuman: first\n\nAssistant: one\n\nHuman: q\nand more\n\nAssistant: bad"})");
  EXPECT_EQ(prompt(marked), (List{"user:first", "assistant:one", "user:q\nand more"}));
  EXPECT_EQ(chosen(marked), (List{"assistant:good\n\n1. x"}));
  EXPECT_EQ(rejected(marked), (List{"assistant:bad"}));
  EXPECT_EQ(prompt(pair(R"({"system":"S","chosen":"Human: q\n\nAssistant: good","rejected":"Human: q\n\nAssistant: bad"})")), (List{"system:S", "user:q"}));
  // Without marks: the common beginning up to a whole sentence, with a note that says so.
  const auto parts = [&](const char* row) {
    const Read r = read(std::string(row) + "\n", RowKind::pair);
    EXPECT_EQ(r.report.entries().size(), 1u);
    const Record& record = r.records.rows.at(0);
    return List{prompt(record).at(0), chosen(record).at(0), rejected(record).at(0)};
  };
  EXPECT_EQ(parts(R"({"chosen":"The sky is blue. Why? It scatters.","rejected":"The sky is blue. Why? It is so."})"),
            (List{"user:The sky is blue. Why?", "assistant:It scatters.", "assistant:It is so."}));
  EXPECT_EQ(parts(R"({"chosen":"问题是什么？答案一。","rejected":"问题是什么？答案二。"})"), (List{"user:问题是什么？", "assistant:答案一。", "assistant:答案二。"}));
  EXPECT_EQ(parts(R"({"chosen":"one two three","rejected":"one two four"})"), (List{"user:one two", "assistant:three", "assistant:four"}));
  EXPECT_EQ(reason(R"({"chosen":"a same text","rejected":"a same text"})"), "chosen and rejected are the same");
  EXPECT_NE(reason(R"({"chosen":"good","rejected":"bad"})").find("there is no prompt"), std::string::npos);
  EXPECT_NE(reason(R"({"chosen":"Human: q\n\nAssistant: a\n\nHuman: x\n\nAssistant: b","rejected":"Human: q\n\nAssistant: a\n\nHuman: y\n\nAssistant: b"})").find("part at a question"),
            std::string::npos);
}

// MedicalGPT's validator knows no tool roles, no chosen and rejected, and no order.
TEST_F(Rows, SystemTurnsToolsHistoryAndMarginsAreKept) {
  const Record tools = pair(R"({"conversations":[{"from":"system","value":"S"},{"from":"human","value":"q"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"},)"
                            R"({"from":"observation","value":"42"}],"tools":"[{\"name\":\"f\"}]","chosen":"good","rejected":"bad","margin":1.5,"weight":0.5})");
  EXPECT_EQ(prompt(tools), (List{"system:S", "user:q", "assistant:", "tool:42"}));
  EXPECT_NE(tools.conversation.messages[2].extra_json.find("tool_calls"), std::string::npos);
  EXPECT_EQ(tools.conversation.tools_json, R"([{"name":"f"}])");
  EXPECT_EQ(tools.margin, 1.5f);
  EXPECT_EQ(tools.weight, 0.5f);
  EXPECT_EQ(lines(tools.rejected_conversation().messages, 0, 5), (List{"system:S", "user:q", "assistant:", "tool:42", "assistant:bad"}));
  EXPECT_EQ(tools.rejected_conversation().tools_json, tools.conversation.tools_json);
  EXPECT_EQ(prompt(pair(R"({"system":"S","history":[["q1","a1"]],"instruction":"q","input":"x","chosen":"good","rejected":"bad"})")),
            (List{"system:S", "user:q1", "assistant:a1", "user:q\nx"}));
  EXPECT_EQ(prompt(pair(R"({"system":"S","question":"q","chosen":"good","rejected":"bad"})")), (List{"system:S", "user:q"}));
  // A turn of its own wins over the column.
  EXPECT_EQ(prompt(pair(R"({"system_prompt":"F","conversations":[{"from":"system","value":"S"},{"from":"human","value":"q"}],"chosen":"good","rejected":"bad"})")), (List{"system:S", "user:q"}));
  EXPECT_EQ(prompt(pair(R"({"system":"S","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]})")),
            (List{"system:S", "user:q"}));
  // A side may call tools and go on; what is common to both is the prompt.
  const Record calls = pair(R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"one"},{"role":"user","content":"r"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f"}}]},)"
                            R"({"role":"tool","content":"1"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"one"},{"role":"user","content":"r"},{"role":"assistant","content":"bad"}]})");
  EXPECT_EQ(prompt(calls), (List{"user:q", "assistant:one", "user:r"}));
  EXPECT_EQ(chosen(calls), (List{"assistant:", "tool:1", "assistant:good"}));
  EXPECT_EQ(rejected(calls), (List{"assistant:bad"}));
  // A message of an answer may have a loss weight.
  EXPECT_EQ(pair(R"({"prompt":"q","chosen":[{"role":"assistant","content":"good","weight":0.5}],"rejected":"bad"})").conversation.messages[1].weight, 0.5f);
}

TEST_F(Rows, PairsThatCannotBeUsedSayWhy) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"prompt":"q","chosen":"good"})", "\"rejected\" is missing"},
      {R"({"prompt":"q","chosen":null,"rejected":"bad"})", "\"chosen\" is missing"},
      {R"({"prompt":"q","chosen":"","rejected":"bad"})", "the chosen answer is empty"},
      {R"({"prompt":"q","chosen":5,"rejected":"bad"})", "\"chosen\" must be a text, a message"},
      {R"({"prompt":"q","chosen":[],"rejected":"bad"})", "\"chosen\" must be a text, a message"},
      {R"({"chosen":"good","rejected":"bad"})", "there is no prompt"},
      {R"({"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"chosen":"good","rejected":"bad"})", "the prompt ends with an answer"},
      {R"({"conversations":[{"from":"alien","value":"q"}],"chosen":"good","rejected":"bad"})", "unknown speaker \"alien\""},
      {R"({"conversations":[{"from":"system","value":"S"}],"chosen":"good","rejected":"bad"})", "no user message"},
      {R"({"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"human","value":"good"},"rejected":"bad"})", "begins with a user turn that is not in the prompt"},
      {R"({"conversations":[{"from":"human","value":"q"}],"chosen":[{"from":"gpt","value":"a"},{"from":"human","value":"q"}],"rejected":"bad"})", "must end with an answer"},
      {R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})", "chosen and rejected are the same"},
      {R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"other"},{"role":"assistant","content":"a"}]})", "part at a question"},
      {R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"q"}]})", "the beginning of the other"},
      {R"({"prompt":"p","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]})", "is another one than the messages"},
      {R"({"prompt":"p","question":"q","chosen":"good","rejected":"bad"})", R"("columns": {"prompt": "question", "chosen": "chosen"})"},
      {R"({"prompt":"q","chosen":"good","rejected":"bad","margin":"much"})", "\"margin\" must be a number"},
      {R"({"messages":[{"role":"user","content":"q"}],"rejected_response":"bad"})", "\"messages\" must end with the chosen answer"},
      {R"({"a":1})", "unknown shape: expected preference pairs"}};
  for (const auto& [row, expected] : cases) EXPECT_NE(reason(row).find(expected), std::string::npos) << row << " → " << reason(row);
  // What can be mended is, and is said.
  const Read r = read(R"({"conversations":[{"from":"gpt","value":"hi"},{"from":"human","value":"q"},{"from":"human","value":"r"}],"chosen":"good","rejected":""})" "\n", RowKind::pair);
  EXPECT_EQ(prompt(r.records.rows.at(0)), (List{"user:q\nr"}));
  EXPECT_EQ(r.report.count(Action::mended), 2);
  EXPECT_EQ(r.report.count(Action::noted), 1);
}

TEST_F(Rows, OfTheWrongKindSayWhatTheyAreAndWhoTakesThem) {
  const std::string rows[] = {kText, kExchange, kPair, kJudged};
  for (const RowKind wanted : {RowKind::text, RowKind::conversation, RowKind::pair, RowKind::judged})
    for (const RowKind found : {RowKind::text, RowKind::conversation, RowKind::pair, RowKind::judged}) {
      if (found == wanted || (wanted == RowKind::conversation && found == RowKind::text)) continue;  // sft learns texts, too
      const std::string said = reason(rows[static_cast<size_t>(found)], wanted);
      EXPECT_NE(said.find(fmt::format("for stage {};", stages_of(found))), std::string::npos) << said;
      EXPECT_NE(said.find(fmt::format("stage {} needs", stages_of(wanted))), std::string::npos) << said;
      // A whole file of them stops, with the reason.
      EXPECT_NE(error_of([&] { read(rows[static_cast<size_t>(found)] + "\n", wanted); }).find("none of its 1 rows can be used"), std::string::npos);
    }
  EXPECT_NE(error_of([&] { read("some text\n", RowKind::pair, "x.txt"); }).find("stage rm or dpo needs"), std::string::npos);
}

TEST_F(Rows, EveryShapeOfAJudgedAnswerIsTheSameRecord) {
  const std::pair<const char*, bool> shapes[] = {
      {R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"kto_tag":true})", true},
      {R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"label":false})", false},
      {R"({"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"kto_tag":false})", false},
      {R"({"instruction":"q","input":"","output":"a","kto_tag":true})", true},
      {R"({"query":"q","response":"a","label":true})", true},
      {R"({"prompt":"q","completion":"a","label":false})", false},
      {R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}],"label":true})", true},
      {R"({"prompt":"q","completion":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"label":1})", true},
      {R"({"prompt":"q","completion":[{"role":"assistant","content":"a"}],"label":0})", false}};
  for (const auto& [shape, good] : shapes) {
    const Record r = judged(shape);
    EXPECT_EQ(prompt(r), (List{"user:q"})) << shape;
    EXPECT_EQ(chosen(r), (List{"assistant:a"})) << shape;
    EXPECT_EQ(r.desirable, good) << shape;
    Notes lost;
    EXPECT_EQ(dump_json(to_row(r, Format::kto, lost)), fmt::format(R"({{"prompt": [{{"role": "user", "content": "q"}}], "completion": [{{"role": "assistant", "content": "a"}}], "label": {}}})", good)) << shape;
  }
  const Read table = read("prompt,completion,label\nq,a,True\nq,b,0\nq,c,maybe\n", RowKind::judged, "t.csv");
  EXPECT_EQ(table.records.rows.at(0).desirable, true);
  EXPECT_EQ(table.records.rows.at(1).desirable, false);
  ASSERT_EQ(table.report.entries().size(), 1u);
  EXPECT_NE(table.report.entries()[0].reason.find("\"label\" must be true"), std::string::npos);
  // The last answer is the judged one.
  EXPECT_EQ(prompt(judged(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"r"},{"role":"assistant","content":"b"}],"label":true})")),
            (List{"user:q", "assistant:a", "user:r"}));
}

// By dataset_info.json, as LLaMA-Factory writes it.
class Mapped : public Rows {
 protected:
  Read read(const std::string& entry, const std::string& rows, RowKind kind) {
    work_.write("a.jsonl", rows);
    work_.write("dataset_info.json", R"({"x": {"file_name": "a.jsonl", )" + entry + "}}");
    Read r;
    read_records(find_data_set("x", work_.path()), {kind, 0}, r.records, r.report);
    return r;
  }
  std::string refused(const std::string& entry, const std::string& rows, RowKind kind) { return error_of([&] { read(entry, rows, kind); }); }
};

TEST_F(Mapped, ColumnsOfPairs) {
  const std::tuple<const char*, const char*> cases[] = {
      {R"("ranking": true, "formatting": "sharegpt", "columns": {"messages": "talk", "chosen": "win", "rejected": "lose", "system": "s"})",
       R"({"talk":[{"from":"human","value":"q"}],"win":{"from":"gpt","value":"good"},"lose":{"from":"gpt","value":"bad"},"s":"S"})"},
      {R"("ranking": true, "columns": {"prompt": "ask", "query": "more", "chosen": "win", "rejected": "lose", "system": "s"})",
       R"({"ask":"q","more":"","win":"good","lose":"bad","s":"S"})"},
      {R"("ranking": true, "columns": {"prompt": "ask", "response": "output", "system": "s"})", R"({"ask":"q","output":["good","bad"],"s":"S"})"},
      {R"("ranking": true, "formatting": "sharegpt", "columns": {"messages": "t", "chosen": "c", "rejected": "r"}, "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "patient", "assistant_tag": "doctor", "system_tag": "rules"})",
       R"({"t":[{"who":"rules","says":"S"},{"who":"patient","says":"q"}],"c":{"who":"doctor","says":"good"},"r":{"who":"doctor","says":"bad"}})"},
      {R"("ranking": true)", R"({"system":"S","instruction":"q","chosen":"good","rejected":"bad"})"},
      {R"("ranking": true, "formatting": "alpaca")", R"({"system":"S","instruction":"q","input":"","output":["good","bad"]})"}};
  for (const auto& [entry, row] : cases) {
    const Record r = read(entry, row, RowKind::pair).records.rows.at(0);
    EXPECT_EQ(prompt(r), (List{"system:S", "user:q"})) << entry;
    EXPECT_EQ(chosen(r), (List{"assistant:good"})) << entry;
    EXPECT_EQ(rejected(r), (List{"assistant:bad"})) << entry;
  }
  const std::string entry = R"("ranking": true, "columns": {"prompt": "ask", "chosen": "win", "rejected": "lose"})";
  EXPECT_NE(refused(entry, R"({"ask":"q","win":"good"})", RowKind::pair).find("the column \"lose\" (rejected in "), std::string::npos);
  EXPECT_NE(refused(R"("columns": {"prompt": "ask", "chosen": "win"})", "{}", RowKind::pair).find("belong together"), std::string::npos);
  EXPECT_NE(refused(R"("columns": {"prompt": "ask", "response": "a"})", R"({"ask":"q","a":"b"})", RowKind::pair).find("names no columns \"chosen\""), std::string::npos);
}

TEST_F(Mapped, TheKindOfAnEntryMustBeThatOfTheStage) {
  const std::string pairs = R"("ranking": true)", judged = R"("columns": {"prompt": "p", "response": "a", "kto_tag": "ok"})";
  EXPECT_NE(refused(pairs, kPair, RowKind::conversation).find("\"ranking\" says that it holds preference pairs"), std::string::npos);
  EXPECT_NE(refused(pairs, kPair, RowKind::judged).find("stage kto needs judged answers"), std::string::npos);
  EXPECT_NE(refused(judged, R"({"p":"q","a":"b","ok":true})", RowKind::conversation).find("for stage kto; stage sft needs"), std::string::npos);
  EXPECT_NE(refused(judged, R"({"p":"q","a":"b","ok":true})", RowKind::pair).find("stage rm or dpo needs preference pairs"), std::string::npos);
  EXPECT_NE(refused(R"("ranking": true, "columns": {"prompt": "p", "response": "a", "kto_tag": "ok"})", "{}", RowKind::pair).find("are no preference pairs"), std::string::npos);
  const Record r = read(judged, R"({"p":"q","a":"b","ok":false})", RowKind::judged).records.rows.at(0);
  EXPECT_EQ(chosen(r), (List{"assistant:b"}));
  EXPECT_EQ(r.desirable, false);
}

// Files as people have them: where ../shared is there.
TEST(RealFiles, EveryRowIsReadOrReported) {
  const fs::path data = fs::path(ATTUNE_ROOT).parent_path() / "shared/data";
  if (!fs::exists(data / "preference")) GTEST_SKIP() << data << " is not here";
  const std::tuple<const char*, RowKind, int> files[] = {{"preference/dpo_en_demo.json", RowKind::pair, 300}, {"preference/dpo_zh_500.jsonl", RowKind::pair, 500},
                                                         {"preference/toolcall_dpo_zh_demo.jsonl", RowKind::pair, 11}, {"kto/kto_en_demo.json", RowKind::judged, 300}};
  for (const auto& [file, kind, count] : files) {
    Read r;
    read_records(data / file, {kind, 0}, r.records, r.report);
    EXPECT_EQ(r.records.rows_read, count) << file;
    EXPECT_EQ(static_cast<int64_t>(r.records.rows.size()) + r.report.count(Action::dropped), count) << file;
    EXPECT_EQ(r.report.count(Action::dropped), 0) << file << ": " << (r.report.summary().empty() ? "" : r.report.summary()[0]);
    // There and back in the canonical form.
    Workspace work;
    std::string rows;
    Notes lost;
    for (const Record& record : r.records.rows) rows += dump_json(to_row(record, kind == RowKind::pair ? Format::preference : Format::kto, lost)) + "\n";
    EXPECT_TRUE(lost.empty());
    Read again;
    read_records(work.write("again.jsonl", rows), {kind, 0}, again.records, again.report);
    ASSERT_EQ(again.records.rows.size(), r.records.rows.size());
    for (size_t i = 0; i < r.records.rows.size(); ++i) {
      EXPECT_EQ(prompt(again.records.rows[i]), prompt(r.records.rows[i])) << file << " " << i;
      EXPECT_EQ(chosen(again.records.rows[i]), chosen(r.records.rows[i]));
      EXPECT_EQ(rejected(again.records.rows[i]), rejected(r.records.rows[i]));
      EXPECT_EQ(again.records.rows[i].desirable, r.records.rows[i].desirable);
    }
  }
}

}  // namespace
}  // namespace attune::data
