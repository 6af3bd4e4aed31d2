// Pairs and judged answers as tokens: one prompt, what is learnt, what is cut, and that the two samples of a row stay together.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <set>

#include "data/mixing.h"
#include "data/order.h"
#include "data/token_cache.h"
#include "support/chatml.h"
#include "text/unicode.h"

namespace attune::data {
namespace {

using test::chatml_tokenizer;
using test::error_of;
using test::kImEnd;
using test::learnt;
using test::Workspace;
using Action = DataReport::Action;
using List = std::vector<std::string>;
using Turns = std::vector<std::pair<std::string, std::string>>;

std::vector<text::Message> messages_of(const Turns& turns) {
  std::vector<text::Message> out;
  for (const auto& [role, content] : turns) out.push_back({role, content, 1, ""});
  return out;
}

Record pair_of(const Turns& prompt, const std::string& chosen, const std::string& rejected) {
  Record r;
  r.conversation.messages = messages_of(prompt);
  r.prompt_messages = prompt.size();
  r.conversation.messages.push_back({"assistant", chosen, 1, ""});
  r.rejected = messages_of({{"assistant", rejected}});
  return r;
}

Record judged_of(const Turns& prompt, const std::string& answer, bool desirable) {
  Record r = pair_of(prompt, answer, "");
  r.rejected.clear();
  r.desirable = desirable;
  return r;
}

class Answers : public ::testing::Test {
 protected:
  TokenSet tokens(std::vector<Record> rows, TokenizeOptions options) {
    Records records;
    records.files = {"x.jsonl"};
    records.data_sets = {"x"};
    for (size_t i = 0; i < rows.size(); ++i) rows[i].source.line = static_cast<int64_t>(i) + 1;
    records.rows = std::move(rows);
    report_ = {};
    return tokenize(records, *tokenizer_, chat_.get(), options, report_);
  }
  TokenSet pairs(std::vector<Record> rows, int64_t limit = 1000, float ld_alpha = 1) { return tokens(std::move(rows), {limit, false, RowKind::pair, false, ld_alpha}); }
  TokenSet judged(std::vector<Record> rows, int64_t limit = 1000) { return tokens(std::move(rows), {limit, false, RowKind::judged}); }

  std::string text(const TokenSet& set, int64_t i) const {
    std::string out;
    for (int32_t id : set.ids(i)) out += tokenizer_->is_special(id) ? tokenizer_->id_to_token(id) : tokenizer_->token_bytes(id);
    return out;
  }
  List learnt_of(const TokenSet& set, int64_t i) const { return learnt(*tokenizer_, set.ids(i), set.weights(i)); }
  // Tokens before the answer, which is what is learnt.
  static size_t prompt(const TokenSet& set, int64_t i) {
    const auto w = set.weights(i);
    return static_cast<size_t>(std::distance(w.begin(), std::find_if(w.begin(), w.end(), [](float x) { return x != 0; })));
  }
  // One prompt for both sides, an answer behind it that is closed, all within the limit.
  void expect_sound(const TokenSet& set, int64_t limit) const {
    ASSERT_EQ(set.group_size(), 2);
    ASSERT_EQ(set.size() % 2, 0);
    for (int64_t g = 0; g < set.groups(); ++g) {
      EXPECT_EQ(set.where(2 * g), set.where(2 * g + 1));
      const auto a = set.ids(2 * g), b = set.ids(2 * g + 1);
      const auto n = static_cast<ptrdiff_t>(prompt(set, 2 * g));
      EXPECT_EQ(prompt(set, 2 * g), prompt(set, 2 * g + 1));
      EXPECT_TRUE(std::equal(a.begin(), a.begin() + n, b.begin(), b.begin() + n));
      for (const auto ids : {a, b}) {
        EXPECT_LE(static_cast<int64_t>(ids.size()), limit);
        EXPECT_GE(static_cast<ptrdiff_t>(ids.size()), n + 2);
        EXPECT_EQ(ids.back(), kImEnd);
      }
    }
  }
  List reasons() const {
    List out;
    for (const auto& e : report_.entries()) out.push_back(std::string(DataReport::name_of(e.action)) + ": " + e.reason);
    return out;
  }

  std::unique_ptr<text::Tokenizer> tokenizer_ = chatml_tokenizer();
  std::unique_ptr<text::ChatTemplate> chat_ = text::ChatTemplate::create("chatml", *tokenizer_);
  DataReport report_;
};

const Turns kTalk{{"system", "Be good"}, {"user", "one"}, {"assistant", "two"}, {"user", "three"}};

TEST_F(Answers, APairIsOnePromptWithTwoAnswersAndOnlyTheseAreLearnt) {
  const TokenSet set = pairs({pair_of(kTalk, "yes sir", "no"), pair_of({{"user", "q"}}, "a", "b")});
  ASSERT_EQ(set.size(), 4);
  EXPECT_EQ(set.groups(), 2);
  expect_sound(set, 1000);
  EXPECT_EQ(text(set, 0), "<|im_start|>system\nBe good<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nyes sir<|im_end|>");
  EXPECT_EQ(learnt_of(set, 0), (List{"yes sir<|im_end|>"}));  // not the answer of the first turn
  EXPECT_EQ(learnt_of(set, 1), (List{"no<|im_end|>"}));
  EXPECT_EQ(learnt_of(set, 2), (List{"a<|im_end|>"}));
  EXPECT_EQ(learnt_of(set, 3), (List{"b<|im_end|>"}));
  EXPECT_TRUE(report_.entries().empty());
  EXPECT_FALSE(set.has_side(kMargin));
  // What generation will see is what stands before the answers.
  text::Conversation asked;
  asked.messages = messages_of(kTalk);
  const std::vector<int32_t> ids = tokenize_prompt(asked, *tokenizer_, *chat_);
  EXPECT_TRUE(std::equal(ids.begin(), ids.end(), set.ids(0).begin(), set.ids(0).begin() + static_cast<ptrdiff_t>(prompt(set, 0))));
}

TEST_F(Answers, AMessagesWeightIsItsTokensTheRowsIsTheWholePairs) {
  Record r = pair_of({{"user", "q"}}, "a", "b");
  r.weight = 0.5f;
  r.rejected[0].weight = 0.25f;
  const TokenSet set = pairs({r});
  // A message's weight is its tokens', the row's the whole pair's: it must not scale the log-probabilities that are compared.
  EXPECT_EQ(set.weights(0)[set.ids(0).size() - 1], 1.0f);
  EXPECT_EQ(set.weights(1)[set.ids(1).size() - 1], 0.25f);
  Step step;
  Batcher(set, {.micro_batch_size = 1, .group_size = 2}).make_step(0, 0, step);
  for (const SideValues& side : step.micro_batches[0].side) EXPECT_EQ(side.weight, 0.5f);
  r.rejected[0].weight = 0;
  EXPECT_EQ(pairs({r, pair_of({{"user", "q"}}, "a", "b")}).groups(), 1);
  EXPECT_EQ(reasons(), (List{"dropped: no token carries a label"}));
}

// Calls of tools and what they gave may be a part of the answer: only the model's own words are learnt.
TEST_F(Answers, OfSeveralMessagesAreLearntWithoutWhatToolsGave) {
  Record r = pair_of({{"user", "q"}}, "x", "bad");
  r.conversation.messages.pop_back();
  for (const auto& m : messages_of({{"assistant", "look"}, {"user", "found"}, {"assistant", "good"}})) r.conversation.messages.push_back(m);
  const TokenSet set = pairs({r});
  EXPECT_EQ(learnt_of(set, 0), (List{"look<|im_end|>", "good<|im_end|>"}));
}

TEST_F(Answers, BeyondTheShorterOneCountLdAlpha) {
  const Record r = pair_of({{"user", "q"}}, "a b c d e f", "a");
  const TokenSet plain = pairs({r}), set = pairs({r}, 1000, 0.25f), none = pairs({r}, 1000, 0);
  const size_t n = prompt(set, 0), shorter = set.ids(1).size();
  ASSERT_GT(set.ids(0).size(), shorter + 2);
  for (size_t i = 0; i < set.ids(0).size(); ++i) {
    EXPECT_EQ(plain.weights(0)[i], i < n ? 0.0f : 1.0f);
    EXPECT_EQ(set.weights(0)[i], i < n ? 0.0f : i < shorter ? 1.0f : 0.25f);
    EXPECT_EQ(none.weights(0)[i], i < n || i >= shorter ? 0.0f : 1.0f);
  }
  for (size_t i = n; i < shorter; ++i) EXPECT_EQ(set.weights(1)[i], 1.0f);
  EXPECT_NE(plain.fingerprint(), set.fingerprint());
}

// MedicalGPT counts characters and discards what is longer, in silence.
TEST_F(Answers, NothingIsDroppedForItsLengthInCharacters) {
  std::string question, answer;
  for (int i = 0; i < 400; ++i) question += "我们", answer += "很好";
  const TokenSet set = pairs({pair_of({{"user", question}}, answer, "不好")}, 128);
  ASSERT_EQ(set.groups(), 1);
  expect_sound(set, 128);
  EXPECT_EQ(report_.count(Action::dropped), 0);
  EXPECT_EQ(report_.count(Action::cut), 2);
}

// MedicalGPT cuts each turn by itself and says nothing (its defect 2); turns are lost in silence (3).
TEST_F(Answers, WhatIsTooLongIsCutTheSameOnBothSidesAndSaidWhateverTheLimit) {
  Turns talk{{"system", "Be good"}};
  for (int i = 0; i < 6; ++i) {
    talk.push_back({"user", fmt::format("question number {} of them", i)});
    if (i < 5) talk.push_back({"assistant", fmt::format("answer number {} to it", i)});
  }
  const std::string good = "a good answer that is long enough to be cut", bad = "a bad one";
  const TokenSet whole = pairs({pair_of(talk, good, bad)});
  const auto full = static_cast<int64_t>(std::max(whole.ids(0).size(), whole.ids(1).size()));
  const auto answer = full - static_cast<int64_t>(prompt(whole, 0));
  int64_t used = 0, last_turns = 100;
  for (int64_t limit = full + 1; limit >= 2; --limit) {
    const TokenSet set = pairs({pair_of(talk, good, bad)}, limit);
    if (set.size() == 0) {
      EXPECT_LT(limit, full / 2);
      EXPECT_EQ(report_.count(Action::dropped), 1);
      continue;
    }
    ++used;
    expect_sound(set, limit);
    const std::string shown = text(set, 0);
    EXPECT_EQ(report_.entries().empty(), limit >= full) << limit;
    // The system message stays; it is the first turns that go, the last ones stay.
    EXPECT_TRUE(shown.starts_with("<|im_start|>system\nBe good<|im_end|>\n<|im_start|>user\n")) << shown;
    int64_t turns = 0;
    for (int i = 0; i < 5; ++i) turns += shown.find(fmt::format("answer number {} to it", i)) != std::string::npos;
    EXPECT_LE(turns, last_turns) << limit;
    last_turns = turns;
    if (turns > 0) EXPECT_NE(shown.find("answer number 4"), std::string::npos);
    // An answer of up to half of the limit is never cut.
    if (answer <= limit / 2) EXPECT_EQ(learnt_of(set, 0), (List{good + "<|im_end|>"})) << limit;
    else EXPECT_TRUE(good.starts_with(learnt_of(set, 0)[0].substr(0, learnt_of(set, 0)[0].size() - 10))) << learnt_of(set, 0)[0];
    if (limit == full - 1) EXPECT_EQ(reasons(), (List{"cut: the prompt does not fit into cutoff_len: its first turns are left off"}));
  }
  EXPECT_GT(used, 60);
  // A prompt of one question loses its beginning, and the template around it stays.
  const Record long_question = pair_of({{"system", "S"}, {"user", "the beginning of a long question and its end"}}, "a", "b");
  const int64_t room = pairs({long_question}).length(0) - 8;
  const TokenSet one = pairs({long_question}, room);
  ASSERT_EQ(one.groups(), 1);
  expect_sound(one, room);
  EXPECT_EQ(reasons(), (List{"cut: the prompt does not fit into cutoff_len: the beginning of its question is left off"}));
  EXPECT_TRUE(text(one, 0).starts_with("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n"));
  EXPECT_NE(text(one, 0).find("its end<|im_end|>\n<|im_start|>assistant\na<|im_end|>"), std::string::npos) << text(one, 0);
  // A system message of more than half of the limit leaves less to both; what it leaves nothing to is dropped.
  const Record rules = pair_of({{"system", "these are the rules and there are many of them"}, {"user", "a question that is long enough"}}, good, bad);
  const auto fixed = pairs({pair_of({{"system", rules.conversation.messages[0].content}, {"user", ""}}, "a", "b")});
  const auto least = static_cast<int64_t>(prompt(fixed, 0));
  const TokenSet tight = pairs({rules}, least + 16);
  ASSERT_EQ(tight.groups(), 1);
  expect_sound(tight, least + 16);
  EXPECT_NE(text(tight, 0).find("enough<|im_end|>"), std::string::npos) << text(tight, 0);
  EXPECT_EQ(report_.rows(Action::cut), 1);
  EXPECT_EQ(report_.count(Action::cut), 2);
  EXPECT_EQ(pairs({rules}, least + 4).groups(), 0);
  EXPECT_EQ(report_.count(Action::dropped), 1);
  // Characters stay whole.
  const Record chinese = pair_of({{"user", "糖化血红蛋白与糖尿病分期的关系是什么"}}, "a", "b");
  for (int64_t less = 1; less < 12; ++less) {
    const TokenSet cut = pairs({chinese}, pairs({chinese}).length(0) - less);
    ASSERT_EQ(cut.groups(), 1);
    const std::string shown = text(cut, 0), question = shown.substr(0, shown.find("<|im_end|>")).substr(shown.find("user\n") + 5);
    EXPECT_TRUE(text::is_valid_utf8(question) && chinese.conversation.messages[0].content.ends_with(question)) << question;
    EXPECT_TRUE(question.ends_with("是什么"));
  }
}

TEST_F(Answers, EqualSidesAreDroppedAndReported) {
  const TokenSet set = pairs({pair_of({{"user", "q"}}, "same", "same"), pair_of({{"user", "q"}}, "a", "b")});
  EXPECT_EQ(set.groups(), 1);
  ASSERT_EQ(report_.entries().size(), 1u);
  EXPECT_EQ(report_.entries()[0].where, "x.jsonl:1");
  EXPECT_EQ(reasons(), (List{"dropped: chosen and rejected are the same"}));
  const std::string begin = "a b c d e f g h i j k l m n o p q r s t u v w x y z";
  const Record alike = pair_of({{"user", "q"}}, begin + begin + " one", begin + begin + " two"), other = pair_of({{"user", "q"}}, "a", "b");
  const auto limit = 2 * static_cast<int64_t>(prompt(pairs({alike}), 0)) + 2;
  EXPECT_EQ(pairs({alike, other}, limit).groups(), 1);
  EXPECT_EQ(reasons(), (List{"dropped: chosen and rejected are the same within cutoff_len"}));
}

TEST_F(Answers, ATemplateWhosePromptDependsOnTheAnswerIsReported) {
  const std::string source =
      "{%- if messages[-1].content == 'long' %}{{- '<|im_start|>system\\nthink<|im_end|>\\n' }}{%- endif %}"
      "{%- for m in messages %}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{%- endfor %}"
      "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
  chat_ = text::ChatTemplate::from_jinja(source, "moody", *tokenizer_);
  EXPECT_EQ(pairs({pair_of({{"user", "q"}}, "short", "long"), pair_of({{"user", "q"}}, "a", "b")}).groups(), 1);
  ASSERT_EQ(reasons().size(), 1u);
  EXPECT_NE(reasons()[0].find("dropped: the chat template writes the prompt in another way"), std::string::npos);
}

TEST_F(Answers, MarginsStandBesideBothSides) {
  std::vector<Record> rows(3, pair_of({{"user", "q"}}, "a", "b"));
  rows[1].margin = 1.5f;
  const TokenSet set = pairs(rows);
  ASSERT_TRUE(set.has_side(kMargin));
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(set.side(kMargin, i), i / 2 == 1 ? 1.5f : 0.0f);
  rows[1].margin = 2.5f;
  EXPECT_NE(pairs(rows).fingerprint(), set.fingerprint());
  // A channel exists only where a row has a margin.
  rows[1].margin.reset();
  EXPECT_FALSE(pairs(rows).has_side(kMargin));
  EXPECT_NE(pairs(rows).fingerprint(), set.fingerprint());
  EXPECT_NE(error_of([&] { (void)pairs(rows).side(kMargin, 0); }), "");
}

TEST_F(Answers, AJudgedRowStandsBesideThePromptWithTheNextRowsAnswer) {
  const TokenSet set = judged({judged_of({{"user", "q1"}}, "a1", true), judged_of(kTalk, "a2", false), judged_of({{"user", "q3"}}, "a3", true)});
  ASSERT_EQ(set.size(), 6);
  expect_sound(set, 1000);
  const List answers{"a1", "a2", "a3"};
  for (int64_t g = 0; g < 3; ++g) {
    EXPECT_EQ(learnt_of(set, 2 * g), (List{answers[static_cast<size_t>(g)] + "<|im_end|>"}));
    EXPECT_EQ(learnt_of(set, 2 * g + 1), (List{answers[static_cast<size_t>((g + 1) % 3)] + "<|im_end|>"}));
    for (int64_t i : {0, 1}) EXPECT_EQ(set.side(kDesirable, 2 * g + i), g == 1 ? 0.0f : 1.0f);
    EXPECT_EQ(set.where(2 * g), fmt::format("x.jsonl:{}", g + 1));
  }
  // The mismatched text is the one that the template would write.
  EXPECT_EQ(text(set, 1), "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na2<|im_end|>");
  EXPECT_NE(set.fingerprint(), judged({judged_of({{"user", "q1"}}, "a1", true), judged_of(kTalk, "a2", true), judged_of({{"user", "q3"}}, "a3", true)}).fingerprint());
  // One row alone has no other answer; a dropped row takes no part.
  EXPECT_EQ(judged({judged_of({{"user", "q1"}}, "a1", true)}).size(), 0);
  EXPECT_NE(reasons().at(0).find("dropped: it is the only row"), std::string::npos);
  // A long answer of another row is cut to the room that is left.
  std::string longer;
  for (int i = 0; i < 40; ++i) longer += "word ";
  const TokenSet cut = judged({judged_of(kTalk, "a", true), judged_of({{"user", "q"}}, longer, true)}, 64);
  ASSERT_EQ(cut.groups(), 2);
  expect_sound(cut, 64);
}

TEST_F(Answers, BlocksAndThreadsDoNotShow) {
  std::vector<Record> rows, dropped;
  for (int i = 0; i < 5000; ++i) rows.push_back(judged_of({{"user", fmt::format("q{}", i)}}, fmt::format("a{}", i), i % 3 == 0));
  const int before = omp_get_max_threads();
  std::string first;
  for (int threads : {1, 4}) {
    omp_set_num_threads(threads);
    const TokenSet set = judged(rows);
    ASSERT_EQ(set.groups(), 5000);
    for (int64_t g : {0, 2046, 2047, 2048, 4999}) EXPECT_EQ(learnt_of(set, 2 * g + 1), (List{fmt::format("a{}<|im_end|>", (g + 1) % 5000)})) << g;
    if (first.empty()) first = set.fingerprint();
    EXPECT_EQ(set.fingerprint(), first);
  }
  omp_set_num_threads(before);
}

// Group g holds the tokens (g, 0 …) and (g, 1 …), the side numbers g and −g.
TokenSet groups_of_two(int n, int sources = 1) {
  TokenSet set;
  set.set_group_size(2);
  set.set_sources(sources == 1 ? List{"x"} : List{"x", "y"});
  for (int g = 0; g < n; ++g)
    for (int side = 0; side < 2; ++side) {
      std::vector<int32_t> ids{g, side};
      std::vector<float> weights{0, 1};
      for (int j = 0; j < (g * 7919 + side * 31) % 29; ++j) ids.push_back(j), weights.push_back(1);
      set.add(ids, weights, fmt::format("x:{}", g + 1), sources == 1 ? 0 : g % 3 == 0);
      set.set_side(kMargin, set.size() - 1, static_cast<float>(g));
      set.set_side("walked", set.size() - 1, static_cast<float>(side == 0 ? g : -g));
    }
  return set;
}

// Both samples of each group, one behind the other, with their numbers.
void expect_whole(const TokenSet& set) {
  ASSERT_EQ(set.size() % 2, 0);
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto ids = set.ids(i);
    ASSERT_EQ(ids[1], i % 2);
    ASSERT_EQ(ids[0], set.ids(i - i % 2)[0]);
    ASSERT_EQ(set.where(i), fmt::format("x:{}", ids[0] + 1));
    ASSERT_EQ(set.side(kMargin, i), static_cast<float>(ids[0]));
    ASSERT_EQ(set.side("walked", i), static_cast<float>(i % 2 == 0 ? ids[0] : -ids[0]));
  }
}

TEST(Groups, TakingAndMixingNeverPartThem) {
  for (int n : {1, 2, 37, 300}) {
    TokenSet all = groups_of_two(n);
    expect_whole(all);
    std::vector<bool> chosen(static_cast<size_t>(n));
    for (int g = 0; g < n; ++g) chosen[static_cast<size_t>(g)] = g * 31 % 7 < 3;
    const TokenSet taken = all.take(chosen);
    expect_whole(taken);
    expect_whole(all);
    EXPECT_EQ(taken.groups() + all.groups(), n);
    EXPECT_EQ(taken.group_size(), 2);
    for (int64_t g = 0; g < taken.groups(); ++g) EXPECT_TRUE(chosen[static_cast<size_t>(taken.ids(2 * g)[0])]);
  }
  for (const MixOptions& options : {MixOptions{"interleave_over", {}, {}, 1}, {"interleave_under", {3, 1}, {}, 1}, {"interleave_once", {}, {}, 2}, {"concat", {}, {2, 0.5}, 1}}) {
    TokenSet set = groups_of_two(60, 2);
    const std::string before = set.fingerprint();
    mix(set, options);
    EXPECT_NE(set.fingerprint(), before);
    expect_whole(set);
    // A number that is filled in later stands beside each of its repetitions.
    set.set_side("late", 0, 7);
    for (int64_t i = 0; i < set.size(); ++i) EXPECT_EQ(set.side("late", i), set.ids(i)[0] == set.ids(0)[0] && i % 2 == 0 ? 7.0f : 0.0f);
  }
  TokenSet set = groups_of_two(4);
  EXPECT_NE(error_of([&] { set.take(std::vector<bool>(8)); }), "");
  EXPECT_NE(error_of([&] { set.set_group_size(1); }), "");
  EXPECT_NE(error_of([&] { Batcher(set, {}); }).find("would part"), std::string::npos);
}

TEST(Groups, AreInTheFingerprintAndWhatAWalkFillsInIsNot) {
  TokenSet set = groups_of_two(5);
  const std::string before = set.fingerprint();
  set.set_side("walked", 3, 42);
  EXPECT_EQ(set.fingerprint(), before);
  set.set_side(kMargin, 3, 42);
  EXPECT_NE(set.fingerprint(), before);
  TokenSet::Storage storage = set.storage();
  storage.group_size = 1;
  TokenSet single(storage);
  single.side_channels = set.side_channels;
  EXPECT_NE(single.fingerprint(), set.fingerprint());
}

TEST(Groups, StayTogetherInEveryBatch) {
  for (const bool packing : {false, true})
    for (const bool by_length : {false, true})
      for (const bool drop_last : {false, true})
        for (const int n : {1, 37, 3000}) {
          if ((packing && by_length) || (drop_last && n < 4)) continue;
          TokenSet set = groups_of_two(n);
          BatchingOptions o;
          o.micro_batch_size = 4, o.micro_batches = 2, o.packing = packing, o.cutoff_len = 80, o.group_size = 2, o.group_by_length = by_length, o.drop_last = drop_last, o.seed = 3;
          const Batcher batcher(set, o);
          const BatchCapacity room = batcher.capacity_of(2);
          for (int64_t epoch : {0, 1}) {
            std::multiset<int64_t> seen;
            Step step;
            for (int64_t s = 0; s < batcher.steps_in_epoch(epoch); ++s) {
              batcher.make_step(epoch, s, step);
              int64_t groups = 0;
              for (const MicroBatch& b : step.micro_batches) {
                ASSERT_EQ(b.sequence_count(), 2 * b.groups);
                ASSERT_LE(b.token_count(), room.tokens);
                ASSERT_LE(b.sequence_count(), room.sequences);
                ASSERT_LE(static_cast<int64_t>(b.label_rows.size()), room.label_rows);
                for (size_t q = 0; q < b.sequence_samples.size(); q += 2) {
                  // Chosen, then rejected, of one row; numbered in order.
                  ASSERT_EQ(b.sequence_samples[q] % 2, 0);
                  ASSERT_EQ(b.sequence_samples[q + 1], b.sequence_samples[q] + 1);
                  ASSERT_EQ(b.sequence_groups[q], static_cast<int32_t>(q / 2));
                  ASSERT_EQ(b.sequence_groups[q + 1], static_cast<int32_t>(q / 2));
                  for (size_t i : {q, q + 1}) ASSERT_EQ(b.side[i].margin, static_cast<float>(b.sequence_samples[q] / 2));
                  seen.insert(b.sequence_samples[q] / 2);
                }
                groups += b.groups;
              }
              ASSERT_EQ(step.total_groups, groups);
              ASSERT_EQ(step.total_sequences, 2 * groups);
            }
            if (!drop_last) ASSERT_EQ(seen.size(), static_cast<size_t>(n));
            ASSERT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), seen.size());
          }
        }
}

// Of a judged row its own answer is learnt and the mismatched one looked at, in the same step.
TEST(Groups, OfJudgedRowsGoToTheStepAndToItsProbes) {
  for (const bool packing : {false, true}) {
    TokenSet set = groups_of_two(50);
    for (int64_t i = 0; i < set.size(); ++i) set.set_side(kDesirable, i, static_cast<float>(i / 2 % 2));
    const Batcher batcher(set, {.micro_batch_size = 3, .micro_batches = 2, .packing = packing, .cutoff_len = 80, .group_size = 2, .probes = true});
    std::set<int64_t> seen;
    Step step;
    for (int64_t s = 0; s < batcher.steps_in_epoch(0); ++s) {
      batcher.make_step(0, s, step);
      ASSERT_EQ(step.probes.size(), step.micro_batches.size());
      for (size_t m = 0; m < step.probes.size(); ++m) {
        const MicroBatch &own = step.micro_batches[m], &other = step.probes[m];
        ASSERT_EQ(own.sequence_count(), other.sequence_count());
        ASSERT_EQ(own.sequence_groups, other.sequence_groups);
        for (size_t q = 0; q < own.sequence_samples.size(); ++q) {
          ASSERT_EQ(own.sequence_samples[q] % 2, 0);
          ASSERT_EQ(other.sequence_samples[q], own.sequence_samples[q] + 1);
          for (const MicroBatch* b : {&own, &other}) ASSERT_EQ(b->side[q].desirable, static_cast<float>(own.sequence_samples[q] / 2 % 2));
          seen.insert(own.sequence_samples[q]);
        }
      }
    }
    EXPECT_EQ(seen.size(), 50u);
  }
}

// Steps are a function of seed and epoch alone: a resumed run finds the same pairs in them.
TEST(Groups, AreInTheSameOrderAsSingleSamplesAre) {
  const TokenSet pairs = groups_of_two(100);
  TokenSet singles;
  singles.set_sources({"x"});
  for (int64_t g = 0; g < 100; ++g) {
    const auto ids = pairs.ids(2 * g);
    const auto weights = pairs.weights(2 * g);
    singles.add(ids, std::vector<float>(weights.begin(), weights.end()), "x:1");
  }
  const Batcher two(pairs, {.micro_batch_size = 3, .group_size = 2}), one(singles, {.micro_batch_size = 3});
  ASSERT_EQ(two.steps_in_epoch(1), one.steps_in_epoch(1));
  Step a, b;
  for (int64_t s = 0; s < one.steps_in_epoch(1); ++s) {
    two.make_step(1, s, a);
    one.make_step(1, s, b);
    for (size_t q = 0; q < b.micro_batches[0].sequence_samples.size(); ++q)
      ASSERT_EQ(a.micro_batches[0].sequence_samples[2 * q], 2 * b.micro_batches[0].sequence_samples[q]);
  }
}

TEST(Groups, AndTheirNumbersComeBackFromTheCache) {
  const Workspace work;
  const std::string key(32, 'c');
  const TokenCache cache(work.path(), 0);
  TokenizedData data;
  data.set = groups_of_two(7);
  cache.store(key, data);
  const auto back = cache.load(key);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->set.group_size(), 2);
  EXPECT_EQ(back->set.fingerprint(), data.set.fingerprint());
  EXPECT_EQ(back->set.side_channels, data.set.side_channels);
  expect_whole(back->set);
  // A file that says otherwise than it is.
  TokenSet::Storage storage = data.set.storage();
  storage.group_size = 3;
  EXPECT_NE(error_of([&] { TokenSet{storage}; }).find("form groups"), std::string::npos);
  storage.group_size = 0;
  EXPECT_NE(error_of([&] { TokenSet{storage}; }).find("form groups"), std::string::npos);
  data.set.side_channels["bad"] = std::vector<float>(15);
  write_token_file(work / "x", key, data);
  EXPECT_NE(error_of([&] { read_token_file(work / "x", key); }).find("belong to no sample"), std::string::npos);
  data.set.side_channels["bad"] = {std::numeric_limits<float>::quiet_NaN()};
  write_token_file(work / "x", key, data);
  EXPECT_NE(error_of([&] { read_token_file(work / "x", key); }).find("not finite"), std::string::npos);
}

}  // namespace
}  // namespace attune::data
