// Tokenised data on disk is the same data, or it is not used.
#include "data/token_cache.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <set>

#include "support/workspace.h"
#include "util/hash.h"

namespace attune::data {
namespace {

using Action = DataReport::Action;
using test::error_of;
using test::Workspace;

const std::string kKey = "0123456789abcdef0123456789abcdef";

TokenizedData sample_data(int samples = 3) {
  TokenizedData d;
  d.set.set_sources({"a", "b \"quoted\""});
  for (int i = 0; i < samples; ++i)
    d.set.add(std::vector<int32_t>{i, 5, 7}, std::vector<float>{0, i % 2 ? 0.5f : 0.0f, 1}, i == 2 ? "no line" : fmt::format("dir:1/a.jsonl:{}", i), i % 2);
  d.report.add(Action::dropped, "no answer", "x:1");
  d.report.add(Action::noted, "not UTF-8: \xFF", "x:2");
  d.report.add(Action::dropped, "no answer", "x:3");
  d.files = {"dir:1/a.jsonl", "b.csv"};
  d.rows_read = 17;
  d.conversations = true;
  return d;
}

void expect_same(const TokenizedData& a, const TokenizedData& b) {
  ASSERT_EQ(a.set.size(), b.set.size());
  for (int64_t i = 0; i < a.set.size(); ++i) {
    EXPECT_TRUE(std::equal(a.set.ids(i).begin(), a.set.ids(i).end(), b.set.ids(i).begin(), b.set.ids(i).end()));
    const Weights x = a.set.weights(i), y = b.set.weights(i);
    EXPECT_EQ(std::vector<float>(x.begin(), x.end()), std::vector<float>(y.begin(), y.end()));
    EXPECT_EQ(a.set.where(i), b.set.where(i));
    EXPECT_EQ(a.set.source(i), b.set.source(i));
  }
  EXPECT_EQ(a.set.sources(), b.set.sources());
  EXPECT_EQ(a.set.fingerprint(), b.set.fingerprint());
  ASSERT_EQ(a.report.entries().size(), b.report.entries().size());
  for (size_t i = 0; i < a.report.entries().size(); ++i) {
    const auto &x = a.report.entries()[i], &y = b.report.entries()[i];
    EXPECT_EQ(std::tie(x.action, x.reason, x.where), std::tie(y.action, y.reason, y.where));
  }
  EXPECT_EQ(a.files, b.files);
  EXPECT_EQ(a.rows_read, b.rows_read);
  EXPECT_EQ(a.conversations, b.conversations);
}

mode_t mode_of(const fs::path& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 0777;
}

TEST(TokenCache, GivesBackEveryBit) {
  const Workspace work;
  const TokenCache cache(work / "deep/tokens", 0);
  EXPECT_FALSE(cache.load(kKey));
  const TokenizedData data = sample_data();
  EXPECT_EQ(data.set.where(0), "dir:1/a.jsonl:0");
  EXPECT_EQ(data.set.where(2), "no line");
  cache.store(kKey, data);
  const auto back = cache.load(kKey);
  ASSERT_TRUE(back);
  expect_same(data, *back);
  // No row was used; everything else still counts.
  TokenizedData empty = sample_data(0);
  cache.store(kKey, empty);
  expect_same(empty, *cache.load(kKey));
}

TEST(TokenCache, IsForItsOwnerAlone) {
  const Workspace work;
  const TokenCache cache(work / "deep/tokens", 0);
  const mode_t before = ::umask(0);
  cache.store(kKey, sample_data());
  ::umask(before);
  EXPECT_EQ(mode_of(work / "deep/tokens"), 0700u);
  EXPECT_EQ(mode_of(cache.file_of(kKey)), 0600u);
}

TEST(TokenCache, DamageIsNoticedWhereverItIs) {
  const Workspace work;
  const fs::path file = work / (kKey + ".tokens");
  write_token_file(file, kKey, sample_data());
  const std::string good = read_file(file);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    work.write(kKey + ".tokens", bad);
    EXPECT_NE(error_of([&] { read_token_file(file, kKey); }), "") << "byte " << i;
    work.write(kKey + ".tokens", good.substr(0, i));
    EXPECT_NE(error_of([&] { read_token_file(file, kKey); }), "") << "cut off at " << i;
  }
  work.write(kKey + ".tokens", good + "x");
  EXPECT_NE(error_of([&] { read_token_file(file, kKey); }), "");
  // The file of another key under this name.
  write_token_file(file, std::string(32, 'a'), sample_data());
  EXPECT_NE(error_of([&] { read_token_file(file, kKey); }).find("other data"), std::string::npos);
}

TEST(TokenCache, WhatIsNotIntactIsLeftOutWithANotice) {
  const Workspace work;
  const TokenCache cache(work.path(), 0);
  work.write(kKey + ".tokens", "something else altogether");
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(cache.load(kKey));
  fs::remove(work / (kKey + ".tokens"));
  fs::create_directory(work / (kKey + ".tokens"));
  EXPECT_FALSE(cache.load(kKey));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("cannot be used: it is cut off"), std::string::npos) << said;
  EXPECT_NE(said.find("not a regular file"), std::string::npos) << said;
}

// A checksum can be made to fit.
TEST(TokenCache, PartsThatDoNotBelongTogetherAreRefused) {
  const auto refused = [](auto change) {
    TokenSet::Storage s = sample_data().set.storage();
    change(s);
    return error_of([&] { TokenSet{s}; });
  };
  EXPECT_EQ(refused([](auto&) {}), "");
  EXPECT_NE(refused([](auto& s) { s.samples[1].ids_end = 3; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[0].ids_end = -4; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[2].ids_end = 1'000'000; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[2].runs_end = 1'000'000; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[1].runs_end = s.samples[0].runs_end; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[0].file = 2; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[0].file = -1; }), "");
  EXPECT_NE(refused([](auto& s) { s.samples[0].source = 2; }), "");
  EXPECT_NE(refused([](auto& s) { s.runs[0].end = 0; }), "");
  EXPECT_NE(refused([](auto& s) { s.runs[1].end = 4; }), "");
  EXPECT_NE(refused([](auto& s) { s.runs[0].weight = NAN; }), "");
  EXPECT_NE(refused([](auto& s) { s.ids.push_back(1); }), "");
  EXPECT_NE(refused([](auto& s) { s.runs.push_back({1, 1}); }), "");
}

TEST(TokenCache, WhatWasUsedLongestAgoMakesRoomAndNothingElse) {
  const Workspace work;
  const auto key = [](int i) { return std::string(31, 'a') + std::to_string(i); };
  const TokenizedData data = sample_data(1000);
  TokenCache(work.path(), 0).store(key(0), data);
  const uint64_t one = fs::file_size(TokenCache(work.path(), 0).file_of(key(0)));
  const TokenCache cache(work.path(), 3 * one + one / 2);
  const auto age = [&](const fs::path& file, int hours) { fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(hours)); };
  for (const char* other : {"notes.txt", "model.tokens", "old.tmp"}) age(work.write(other, std::string(10 * one, 'x')), 1000);
  age(work.write(key(0) + ".tokens.77.tmp", "left by a process that was killed"), 1000);
  work.write(key(0) + ".tokens.78.tmp", "of a process that is at work");
  cache.store(key(1), data);
  cache.store(key(2), data);
  age(cache.file_of(key(0)), 30), age(cache.file_of(key(1)), 20), age(cache.file_of(key(2)), 10);
  EXPECT_TRUE(cache.load(key(0)));  // used now
  cache.store(key(3), data);
  EXPECT_TRUE(cache.has(key(0)));
  EXPECT_FALSE(cache.has(key(1)));
  EXPECT_TRUE(cache.has(key(2)));
  EXPECT_TRUE(cache.has(key(3)));
  for (const char* other : {"notes.txt", "model.tokens", "old.tmp"}) EXPECT_TRUE(fs::exists(work / other)) << other;
  EXPECT_FALSE(fs::exists(work / (key(0) + ".tokens.77.tmp")));
  EXPECT_TRUE(fs::exists(work / (key(0) + ".tokens.78.tmp")));
  // What alone is too large drives nothing out.
  ::testing::internal::CaptureStderr();
  TokenCache(work.path(), one / 2).store(key(4), data);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("tokenized_path"), std::string::npos);
  EXPECT_TRUE(cache.has(key(3)));
  EXPECT_FALSE(cache.has(key(4)));
}

TEST(TokenCache, WithoutRoomOrPermissionTheRunGoesOn) {
  const Workspace work;
  work.write("file", "no directory");
  ::testing::internal::CaptureStderr();
  TokenCache(work / "file/tokens", 0).store(kKey, sample_data());
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("not kept"), std::string::npos);
  // A disk that is full, played by a limit on the size of files.
  const TokenCache cache(work / "tokens", 0);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{4096, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  ::testing::internal::CaptureStderr();
  cache.store(kKey, sample_data(1000));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("The run goes on without"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(work / "tokens"));
}

TEST(TokenCache, ProcessesMayStoreTheSameAtOnce) {
  const Workspace work;
  const TokenCache cache(work.path(), 0);
  const TokenizedData data = sample_data(5000);
  cache.store(kKey, data);
  std::vector<pid_t> children;
  for (int c = 0; c < 3; ++c) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int i = 0; i < 10; ++i) write_token_file(cache.file_of(kKey), kKey, data);
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (int i = 0; i < 30; ++i) EXPECT_EQ(error_of([&] { read_token_file(cache.file_of(kKey), kKey); }), "");
  for (const pid_t child : children) {
    int status = 1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(work.path()), fs::directory_iterator()), 1);
}

TEST(TokenKey, ChangesWithEverythingThatDecidesTheResult) {
  const Workspace work;
  test::copy_small_tokenizer(work / "model");
  TokenRequest base;
  base.sets = {{"a", {work.write("a.jsonl", "one")}, {}, 0}};
  const auto key = [&](auto change) {
    TokenRequest r = base;
    change(r);
    return key_of(r, work / "model");
  };
  const std::string plain = key([](auto&) {});
  EXPECT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain, key([](auto&) {}));
  std::vector<std::string> keys{plain,
      key([](auto& r) { r.sets[0].name = "b"; }), key([](auto& r) { r.sets[0].num_samples = 5; }),
      key([](auto& r) { r.sets[0].mapping.formatting = Mapping::Formatting::openai; }),
      key([](auto& r) { r.sets[0].mapping.explicit_columns = true; }), key([](auto& r) { r.sets[0].mapping.response = "answer"; }),
      key([](auto& r) { r.sets[0].mapping.system_tag = "s"; }), key([](auto& r) { r.sets[0].mapping.function_tag = "s"; }),
      key([](auto& r) { r.sets.push_back(r.sets[0]); }), key([](auto& r) { r.sets[0].files.push_back(r.sets[0].files[0]); }),
      key([&](auto& r) { r.sets[0].files[0] = work.write("b.jsonl", "one"); }),
      key([](auto& r) { r.read.kind = RowKind::pair; }), key([](auto& r) { r.read.max_samples = 9; }), key([](auto& r) { r.read.seed = 9; }),
      key([](auto& r) { r.tokenize.cutoff_len = 9; }), key([](auto& r) { r.tokenize.train_on_prompt = true; }),
      key([](auto& r) { r.tokenize.kind = RowKind::pair; }), key([](auto& r) { r.tokenize.mask_history = true; }),
      key([](auto& r) { r.tokenize.ld_alpha = 0.5f; }), key([](auto& r) { r.sets[0].mapping.chosen = "c"; }),
      key([](auto& r) { r.sets[0].mapping.kto_tag = "c"; }), key([](auto& r) { r.sets[0].mapping.ranking = true; }), key([](auto& r) { r.chat_template = "qwen"; }), key([](auto& r) { r.tool_format = "qwen"; })};
  work.write("a.jsonl", "two");
  keys.push_back(key([](auto&) {}));
  for (const char* file : {"tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "generation_config.json", "chat_template.jinja"}) {
    work.write(std::string("model/") + file, "x");
    keys.push_back(key([](auto&) {}));
  }
  EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), keys.size());
}

TEST(TokenizeDataSets, BlocksAndThreadsDoNotShow) {
  const Workspace work;
  test::copy_small_tokenizer(work / "model");
  const auto tokenizer = text::Tokenizer::load(work / "model");
  std::string rows;
  std::vector<std::string> used, dropped;
  for (int i = 1; i <= 5000; ++i) {  // more than two blocks
    const bool bad = i % 611 == 0;
    rows += bad ? "broken\n" : fmt::format("{{\"text\": \"Row {} of many\"}}\n", i);
    (bad ? dropped : used).push_back(fmt::format("{}:{}", (work / "a.jsonl").string(), i));
  }
  TokenRequest request;
  request.sets = {{"a", {work.write("a.jsonl", rows)}, {}, 0}};
  request.read.kind = request.tokenize.kind = RowKind::text;
  const ChatSource none = []() -> const text::ChatTemplate& { throw std::logic_error("no conversation here"); };
  const int before = omp_get_max_threads();
  std::optional<TokenizedData> first;
  for (int threads : {1, 4}) {
    omp_set_num_threads(threads);
    TokenizedData data = tokenize_data_sets(request, *tokenizer, none);
    std::vector<std::string> places, reported;
    for (int64_t i = 0; i < data.set.size(); ++i) places.push_back(data.set.where(i));
    for (const auto& e : data.report.entries()) reported.push_back(e.where);
    EXPECT_EQ(places, used);
    EXPECT_EQ(reported, dropped);
    EXPECT_EQ(data.rows_read, 5000);
    if (first) expect_same(*first, data);
    else first = std::move(data);
  }
  omp_set_num_threads(before);
  // All at once.
  Records records;
  DataReport report;
  read_records(request.sets[0], request.read, records, report);
  EXPECT_EQ(tokenize(records, *tokenizer, nullptr, request.tokenize, report).fingerprint(), first->set.fingerprint());
  // Some of them, chosen: every row is read all the same.
  request.sets[0].num_samples = 100;
  const TokenizedData some = tokenize_data_sets(request, *tokenizer, none);
  EXPECT_EQ(some.set.size(), 100);
  EXPECT_EQ(some.rows_read, 5000);
  EXPECT_EQ(some.report.entries().size(), dropped.size());
}

TEST(TokenSetStorage, FingerprintIsThatOfFlatArrays) {
  TokenSet set;
  set.set_sources({"a"});
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<int64_t> begins{0};
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> row;
    std::vector<float> w;
    for (int j = 0; j < 2 + i % 37; ++j) row.push_back(i * j), w.push_back(static_cast<float>((j / 5 + i) % 3) / 2);
    set.add(row, w, "x:1");
    ids.insert(ids.end(), row.begin(), row.end());
    weights.insert(weights.end(), w.begin(), w.end());
    begins.push_back(static_cast<int64_t>(ids.size()));
  }
  const auto bytes = [](const auto& v) { return std::string_view(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(v[0])); };
  EXPECT_EQ(set.fingerprint(), fmt::format("{:016x}", hash64(bytes(ids), hash64(bytes(weights), hash64(bytes(begins))))));
}

TEST(TokenSetStorage, WhatIsTakenOutAndWhatStaysAreWhatWasAdded) {
  const auto add = [](TokenSet& set, int i) {
    std::vector<int32_t> row(static_cast<size_t>(2 + i % 5), i);
    std::vector<float> w(row.size(), 1);
    w[0] = 0;
    set.add(row, w, fmt::format("x{}:{}", i % 2, i), i % 2);
  };
  TokenSet all, even, odd;
  std::vector<bool> chosen;
  for (TokenSet* set : {&all, &even, &odd}) set->set_sources({"a", "b"});
  for (int i = 0; i < 100; ++i) {
    add(all, i);
    add(i % 3 ? odd : even, i);
    chosen.push_back(i % 3 == 0);
  }
  const TokenSet taken = all.take(chosen);
  EXPECT_EQ(taken.fingerprint(), even.fingerprint());
  EXPECT_EQ(all.fingerprint(), odd.fingerprint());
  for (int64_t i = 0; i < odd.size(); ++i) EXPECT_EQ(all.where(i), odd.where(i));
  for (int64_t i = 0; i < even.size(); ++i) EXPECT_EQ(std::pair(taken.where(i), taken.source(i)), std::pair(even.where(i), even.source(i)));
}

TEST(Weights, CountsAndUnfoldsItsRuns) {
  TokenSet set;
  const std::vector<std::vector<float>> rows{{1, 1, 0, 1}, {0, 0, 0.5f, 0.5f}, {1}, {0, 1}, {1, 0, 0}};
  const int64_t labels[] = {2, 2, 0, 1, 0};
  for (size_t i = 0; i < rows.size(); ++i) {
    set.add(std::vector<int32_t>(rows[i].size(), 1), rows[i], "x:1");
    const Weights w = set.weights(static_cast<int64_t>(i));
    std::vector<float> all{9, 9, 9, 9, 9, 9};
    w.copy_to(all);
    EXPECT_EQ(all, rows[i]);
    EXPECT_EQ(std::vector<float>(w.begin(), w.end()), rows[i]);
    for (size_t j = 0; j < rows[i].size(); ++j) EXPECT_EQ(w[j], rows[i][j]);
    EXPECT_EQ(w.labels(), labels[i]);
  }
}

}  // namespace
}  // namespace attune::data
