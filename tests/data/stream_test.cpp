// Streams: the rows of files that are never held as a whole are those that a whole read gives; windows are bounded, hold every row
// once a pass, and are a function of the place they begin at.
#include <gtest/gtest.h>
#include <omp.h>

#include <map>
#include <set>

#include "data/token_stream.h"
#include "support/chatml.h"
#include "util/machine.h"

namespace attune::data {
namespace {

using test::error_of;
using test::Workspace;
using Action = DataReport::Action;
using List = std::vector<std::string>;

List shown(const std::vector<FileRows::Piece>& pieces) {
  List out;
  for (const auto& p : pieces) out.push_back(fmt::format("{}: {}", p.line, p.text));
  return out;
}

// Rows of every layout, with all that may stand between and in them.
const std::pair<const char*, std::string> kFiles[] = {
    {"rows.jsonl", "\n{\"text\":\"one\"}\r\n\n  \n{\"text\":\"two\\\"}\"}\n{\"text\":\"three\"}"},
    {"rows.json", " [ {\"text\":\"o]n,e\"},\n\n{\"text\":[1,{\"a\":\"}\"}]} ,\n {\"text\":\"three\"}\n]\n \n"},
    {"rows.csv", "\nprompt,response\n\"a \"\"b\"\",\nc\",d\n\n1,2\r\n\"x\",y"},
    {"rows.txt", "first line\n\n\nsecond line\r\nthird\n"},
    {"wrapped.json", "{\"data\": [\n{\"text\": \"one\"},\n{\"text\": \"two\"}]}\n"}};

TEST(CutRows, GiveTheSameRowsWhereverABlockEnds) {
  for (const auto& [name, content] : kFiles) {
    const SplitOptions options{name, true, known_columns()};
    const FileLayout layout = layout_of(content, options);
    if (layout.rows == FileLayout::Rows::object) continue;
    const List whole = shown(split_file(content, options).pieces);
    ASSERT_GE(whole.size(), 3u) << name;
    for (size_t block = 1; block <= content.size(); ++block)
      for (size_t most : {size_t{1}, size_t{100}}) {
        List got;
        size_t at = layout.begin, bytes = block;
        for (int64_t line = layout.line;;) {
          const std::string_view part = std::string_view(content).substr(at, bytes);
          const RowBlock cut = cut_rows(part, line, layout, most, at + part.size() == content.size(), name);
          for (const std::string& row : shown(cut.pieces)) got.push_back(row);
          ASSERT_EQ(cut.pieces.size(), cut.behind.size());
          if (cut.last) break;
          // Going on behind any row gives the others.
          const RowBlock::Place next = cut.pieces.empty() ? cut.end : cut.behind.back();
          bytes = next.at == 0 ? bytes + 1 : block;
          at += next.at, line = next.line;
          ASSERT_LE(got.size(), whole.size()) << name << block;
        }
        EXPECT_EQ(got, whole) << name << " in blocks of " << block;
      }
  }
}

TEST(CutRows, WhatIsCutOffOrStandsBehindTheEndIsAnError) {
  const auto error = [](const std::string& name, const std::string& content) {
    const SplitOptions options{name, true, known_columns()};
    return error_of([&] { split_file(content, options); });
  };
  EXPECT_NE(error("x.json", "[{\"text\":1}, {\"text\"").find("not closed"), std::string::npos);
  EXPECT_NE(error("x.json", "[{\"text\":1}]\n\n{}").find("x.json:3"), std::string::npos);
  EXPECT_NE(error("x.csv", "prompt,response\na,b\n\"c,d\n").find("x.csv:3: a quote"), std::string::npos);
  EXPECT_EQ(error("x.json", "[ }, {\"text\":1} ]"), "");  // a bad row, not an endless one
}

class Streams : public ::testing::Test {
 protected:
  // `n` rows of text; each says its number.
  std::string texts(const std::string& name, int n, int begin = 0) {
    std::string out;
    for (int i = begin; i < begin + n; ++i) out += fmt::format("{} row {}{}\n", name, i, std::string(static_cast<size_t>(i * 7919 % 31), 'x'));
    return out;
  }
  DataSet set(const std::string& name, const std::vector<std::string>& contents, const std::string& extension = ".txt") {
    DataSet s{name, {}, {}, 0};
    for (size_t i = 0; i < contents.size(); ++i) s.files.push_back(work_.write(fmt::format("{}-{}{}", name, i, extension), contents[i]));
    return s;
  }
  std::unique_ptr<TokenStream> stream(std::vector<DataSet> sets, MixOptions mixing = {}, int64_t most_tokens = 1 << 20, int64_t max_samples = 0,
                                      RowKind kind = RowKind::text) {
    TokenRequest r;
    r.sets = std::move(sets);
    r.read = {kind, max_samples, 42};
    r.tokenize = {64, false, kind, false};
    r.chat_template = "chatml";
    return std::make_unique<TokenStream>(r, mixing, most_tokens, *tokenizer_, [this]() -> const text::ChatTemplate& { return *chat_; });
  }
  // The places of a window's rows, each once.
  List rows(const StreamWindow& w) const {
    List out;
    for (int64_t i = 0; i < w.set.size(); ++i) {
      std::string place = fs::path(w.set.where(i)).filename().string();
      if (out.empty() || out.back() != place) out.push_back(place);
    }
    return out;
  }
  std::vector<StreamWindow> windows(TokenStream& stream, int count, int64_t rows) {
    std::vector<StreamWindow> out;
    StreamCursor at = stream.begin();
    for (int i = 0; i < count; ++i) {
      out.push_back(stream.window(at, rows));
      at = out.back().end;
    }
    return out;
  }

  Workspace work_;
  std::unique_ptr<text::Tokenizer> tokenizer_ = test::chatml_tokenizer();
  std::unique_ptr<text::ChatTemplate> chat_ = text::ChatTemplate::create("chatml", *tokenizer_);
};

TEST_F(Streams, FilesLargerThanABlockGiveTheRowsOfAWholeRead) {
  std::string lines = "", list = "[", table = "prompt,response\n";
  for (int i = 0; i < 3000; ++i) {
    const std::string long_text(static_cast<size_t>(i * 7919 % 6000), 'y');
    lines += fmt::format("{{\"text\":\"{} {}\"}}\n", i, long_text);
    list += fmt::format("{}\n{{\"text\":\"{} {}\"}}", i ? "," : "", i, long_text);
    table += fmt::format("\"{}\nis\",\"{}\"\n", i, long_text);
  }
  list += "]";
  lines += fmt::format("{{\"text\":\"{}\"}}\n{{\"text\":\"last\"}}", std::string(6'000'000, 'z'));  // longer than a block
  for (const auto& [name, content] : {std::pair{"a.jsonl", lines}, {"b.json", list}, {"c.csv", table}}) {
    const SplitOptions options{name, true, known_columns()};
    const List whole = shown(split_file(content, options).pieces);
    FileStream stream(work_.write(name, content), options);
    List got;
    for (FileStream::Place at = stream.begin();;) {
      const FileStream::Block block = stream.read(at, 100);
      if (block.rows.pieces.empty()) break;
      for (const std::string& row : shown(block.rows.pieces)) got.push_back(row);
      EXPECT_EQ(stream.offset_of(block.rows.pieces[0].text), static_cast<uint64_t>(content.find(block.rows.pieces[0].text, at.offset)));
      at = block.behind.back();
    }
    EXPECT_TRUE(got == whole) << name;
  }
}

TEST_F(Streams, ALargeFileTakesNoMemoryOfItsSize) {
  std::string text;
  for (int i = 0; i < 60'000; ++i) text += fmt::format("line {} of a file that is much larger than what is held of it: {}\n", i, std::string(1200, 'x'));
  DataSet large{"large", {work_.write("large.txt", text)}, {}, 0};
  ASSERT_GT(text.size(), 70'000'000u);
  std::string().swap(text);
  SourceReader reader(large, {RowKind::text});
  SourceReader::Place place;
  SourceReader::Row row;
  ASSERT_TRUE(reader.next(place, row));
  const uint64_t before = resident_memory_bytes();
  uint64_t most = 0;
  int64_t rows = 1;
  for (; reader.next(place, row); ++rows)
    if (rows % 5'000 == 0) most = std::max(most, resident_memory_bytes());
  EXPECT_EQ(rows, 60'000);
#if !defined(__SANITIZE_ADDRESS__)  // which keeps what was freed
  EXPECT_LT(most, before + 24'000'000);
#endif
}

TEST_F(Streams, WindowsAreBoundedAndHoldEveryRowOncePerPass) {
  const auto s = stream({set("a", {texts("a", 23), texts("a", 18)}), set("b", {texts("b", 40)})});
  std::map<std::string, int> seen;
  StreamCursor at = s->begin();
  for (int64_t pass = 0; pass < 3; ++pass) {
    seen.clear();
    for (int64_t read = 0; read < 81;) {
      const StreamWindow w = s->window(at, 10);
      EXPECT_EQ(w.pass, pass);
      EXPECT_LE(w.rows, 10);
      for (const std::string& row : rows(w)) ++seen[row];
      read += w.rows;
      EXPECT_LE(read, 81);
      EXPECT_NEAR(w.epoch_end, static_cast<double>(pass) + static_cast<double>(read) / 81, 0.04);
      at = w.end;
    }
    EXPECT_EQ(seen.size(), 81u);
    for (const auto& [row, times] : seen) EXPECT_EQ(times, 1) << row;
  }
  // Tokens bound a window too: it ends with the row that fills it.
  const auto small = stream({set("c", {texts("c", 200)})}, {}, 100);
  for (const StreamWindow& w : windows(*small, 8, 1000)) {
    EXPECT_GE(w.set.total_tokens(), 100);
    EXPECT_LT(w.set.total_tokens(), 100 + 64);
  }
}

TEST_F(Streams, AWindowIsAFunctionOfWhereItBeginsWhateverTheThreads) {
  for (const char* strategy : {"concat", "interleave_once", "interleave_under", "interleave_over"}) {
    MixOptions mixing{strategy, std::string(strategy) == "concat" ? std::vector<double>{} : std::vector<double>{0.3, 0.7}, {}, 5};
    const std::vector<DataSet> sets{set("a", {texts("a", 130)}), set("b", {texts("b", 300), texts("b", 20)})};
    const auto whole = windows(*stream(sets, mixing), 30, 37);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    for (const StreamWindow& w : whole) {
      const StreamWindow again = stream(sets, mixing)->window(w.begin, 37);
      EXPECT_EQ(again.set.fingerprint(), w.set.fingerprint()) << strategy;
      EXPECT_EQ(rows(again), rows(w));
      EXPECT_TRUE(again.end == w.end);
      EXPECT_EQ(again.pass, w.pass);
    }
    omp_set_num_threads(threads);
  }
}

TEST_F(Streams, DataSetsAreMixedByWeightAndBeginAnewByThemselves) {
  const std::vector<DataSet> sets{set("small", {texts("small", 50)}), set("large", {texts("large", 3000)})};
  const auto s = stream(sets, {"interleave_over", {0.25, 0.75}, {}, 5});
  std::vector<int> counts(2);
  std::set<std::string> of_large;
  StreamCursor at = s->begin();
  int64_t passes = 0;
  while (counts[0] + counts[1] < 2000) {
    const StreamWindow w = s->window(at, 100);
    for (int64_t i = 0; i < w.set.size(); ++i) {
      ++counts[static_cast<size_t>(w.set.source(i))];
      // None twice before all were seen.
      if (w.set.source(i) == 1) {
        EXPECT_TRUE(of_large.insert(w.set.where(i)).second);
      }
    }
    at = w.end;
    passes = at.sources[0].pass;
    EXPECT_EQ(w.pass, 0);
  }
  EXPECT_NEAR(counts[0] / static_cast<double>(counts[0] + counts[1]), 0.25, 0.03);
  EXPECT_GE(passes, 8);
  // A pass ends with the first data set, or all go through it together.
  EXPECT_GE(windows(*stream(sets, {"interleave_under", {0.25, 0.75}, {}, 5}), 20, 100).back().pass, 4);
  std::vector<int> turns;
  for (const StreamWindow& w : windows(*stream(sets, {"interleave_once", {}, {}, 5}), 1, 40))
    for (int64_t i = 0; i < w.set.size(); ++i) turns.push_back(w.set.source(i));
  for (size_t i = 0; i < turns.size(); ++i) EXPECT_EQ(turns[i], static_cast<int>(i % 2));
  // Without probabilities they end together, whatever their sizes.
  std::vector<int> first(2), last(2);
  const auto plain = windows(*stream(sets), 31, 100);
  for (int64_t i = 0; i < plain[1].set.size(); ++i) ++first[static_cast<size_t>(plain[1].set.source(i))];
  for (int64_t i = 0; i < plain[28].set.size(); ++i) ++last[static_cast<size_t>(plain[28].set.source(i))];
  EXPECT_GE(first[0], 1);
  EXPECT_NEAR(first[0], last[0], 1.1);
}

TEST_F(Streams, WhatIsHeldOutIsNeverTrained) {
  const std::vector<DataSet> sets{set("a", {texts("a", 30)}), set("b", {texts("b", 30)})};
  const auto s = stream(sets);
  const StreamWindow held = s->hold_out(8);
  const List places = rows(held);
  EXPECT_EQ(places.size(), 8u);
  std::map<std::string, int> seen;
  for (const StreamWindow& w : windows(*s, 9, 20))  // three passes
    for (const std::string& row : rows(w)) ++seen[row];
  EXPECT_EQ(seen.size(), 52u);
  for (const std::string& row : places) EXPECT_EQ(seen.count(row), 0u) << row;
  for (const auto& [row, times] : seen) EXPECT_EQ(times, 3) << row;
  EXPECT_NE(error_of([&] { stream(sets)->hold_out(61); }).find("val_size"), std::string::npos);
  EXPECT_NE(s->fingerprint(), stream(sets)->fingerprint());
}

TEST_F(Streams, RowsThatAreNotUsedAreNamedAsInAWholeRead) {
  std::string content = R"({"instruction":"q","output":"a"})" "\n";
  content += "not JSON\n" R"({"instruction":"q"})" "\n\n";
  content += R"({"instruction":"q","output":")" + std::string(500, 'y') + "\"}\n" R"({"instruction":"q","output":"b"})" "\n";
  const DataSet data = set("data", {content}, ".jsonl");
  TokenRequest r;
  r.sets = {data};
  r.tokenize.cutoff_len = 64;
  const TokenizedData whole = tokenize_data_sets(r, *tokenizer_, [this]() -> const text::ChatTemplate& { return *chat_; });
  ASSERT_EQ(whole.report.entries().size(), 3u);
  const auto s = stream({data}, {}, 1 << 20, 0, RowKind::conversation);
  const StreamWindow w = s->window(s->begin(), 100);
  EXPECT_EQ(w.report.jsonl(), whole.report.jsonl());
  EXPECT_EQ(w.set.fingerprint(), whole.set.fingerprint());
  EXPECT_EQ(w.rows, 5);
  EXPECT_TRUE(w.conversations);
  // The second pass says nothing again.
  EXPECT_TRUE(s->window(w.end, 100).report.entries().empty());
  // max_samples: the first rows of each pass.
  const auto first = stream({data}, {}, 1 << 20, 2, RowKind::conversation);
  const StreamWindow two = first->window(first->begin(), 100);
  EXPECT_EQ(two.rows, 2);
  EXPECT_EQ(first->window(two.end, 100).rows, 2);
}

// Many rows in a row that are of no use are no end of the data.
TEST_F(Streams, AWindowGoesOnUntilThereIsARowToLearnFrom) {
  std::string content;
  for (int i = 0; i < 20; ++i) content += i % 10 == 9 ? fmt::format("{{\"text\":\"row {}\"}}\n", i) : "{\"other\":1}\n";
  const auto s = stream({set("d", {content}, ".jsonl")});
  const auto all = windows(*s, 2, 4);
  EXPECT_EQ(rows(all[0]), List{"d-0.jsonl:10"});
  EXPECT_EQ(rows(all[1]), List{"d-0.jsonl:20"});
  EXPECT_EQ(all[0].rows + all[1].rows, 20);
  EXPECT_EQ(all[0].report.entries().size() + all[1].report.entries().size(), 18u);
}

// What cannot be read on ends the stream with its place, behind all that stands before it.
TEST_F(Streams, ADamagedFileEndsTheStreamBehindItsGoodRows) {
  std::string table = "text,label\n";
  for (int i = 0; i < 300; ++i) table += fmt::format("row {},x\n", i);
  const int bad_line = 302;
  table += "\"never closed,x\n" + texts("lost", 20);
  const auto s = stream({set("t", {table}, ".csv")}, {}, 1 << 20, 0, RowKind::conversation);
  const auto good = windows(*s, 3, 120);
  EXPECT_EQ(good[0].rows + good[1].rows + good[2].rows, 300);
  const std::string error = error_of([&] { s->window(good[2].end, 120); });
  EXPECT_NE(error.find(fmt::format("t-0.csv:{}: a quote in this row is never closed", bad_line)), std::string::npos) << error;
  EXPECT_EQ(error_of([&] { s->window(good[2].end, 120); }), error);
}

TEST_F(Streams, WhatAStreamCannotDoIsRefused) {
  const auto refusal = [&](auto&& action) { return error_of(action); };
  const DataSet a = set("a", {texts("a", 5)});
  DataSet chosen = a;
  chosen.num_samples = 3;
  EXPECT_NE(refusal([&] { stream({chosen}); }).find("max_samples"), std::string::npos);
  DataSet missing = a;
  missing.files = {work_ / "nowhere.txt"};
  EXPECT_NE(refusal([&] { stream({missing}); }).find("does not exist"), std::string::npos);
  EXPECT_NE(refusal([&] { stream({set("e", {""})}); }).find("empty"), std::string::npos);
  EXPECT_NE(refusal([&] { stream({a}, {"concat", {}, {2}, 1}); }).find("dataset_weights"), std::string::npos);
  EXPECT_NE(refusal([&] { stream({a}, {}, 100, 0, RowKind::pair); }).find("not streamed"), std::string::npos);
  // No row of a file, no row of the whole pass.
  const auto none = stream({set("n", {"nothing\nat all\n"}, ".jsonl")});
  EXPECT_NE(refusal([&] { none->window(none->begin(), 10); }), "");
  const auto bad = stream({set("b", {"{\"a\":1}\n{\"b\":2}\n"}, ".jsonl")});
  EXPECT_NE(refusal([&] { bad->window(bad->begin(), 10); }).find("none of its 2 rows can be used"), std::string::npos);
  // One object that holds everything is read while it is small.
  const auto wrapped = stream({set("w", {kFiles[4].second}, ".json")});
  EXPECT_EQ(wrapped->window(wrapped->begin(), 10).rows, 2);
}

}  // namespace
}  // namespace attune::data
