// A run from the token cache cannot be told from one that reads its data; what is kept for other settings is never used.
#include "train/data_setup.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "support/workspace.h"

namespace attune::train {
namespace {

using namespace test;
using List = std::vector<std::string>;

class CachedRun : public ::testing::Test {
 protected:
  CachedRun() {
    make_small_model(work_ / "model");
    std::string rows = small_alpaca(40);
    rows += "{\"instruction\": \"no answer\"}\nnot JSON\n";
    rows += dump_json({{"instruction", "a long one"}, {"output", std::string(4000, 'y')}}) + "\n";
    work_.write("data.jsonl", rows);
    work_.write("more.jsonl", small_alpaca(9));
  }
  RunSetup run(const List& more = {}) {
    List settings{"model_name_or_path=" + (work_ / "model").string(), "dataset=" + (work_ / "data.jsonl").string(), "template=default",
                  "cutoff_len=240", "output_dir=" + (work_ / "out").string(), "tokenized_path=" + kept().string()};
    for (const std::string& item : more) {  // wins over what stands there
      const std::string key = item.substr(0, item.find('=') + 1);
      std::erase_if(settings, [&](const std::string& other) { return other.starts_with(key); });
      settings.push_back(item);
    }
    ::testing::internal::CaptureStderr();
    try {
      RunSetup setup = prepare(load_config("", settings));
      said_ = ::testing::internal::GetCapturedStderr();
      return setup;
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
  }
  // All that anybody can see of the data.
  static List seen(const RunSetup& s) {
    List out = describe_data(s);
    out.push_back(s.report.jsonl());
    for (const data::TokenSet* set : {s.train_set.get(), s.eval_set.get()}) {
      if (!set) continue;
      out.push_back(set->fingerprint());
      for (int64_t i = 0; i < set->size(); ++i) out.push_back(set->where(i));
    }
    out.insert(out.end(), s.data_files.begin(), s.data_files.end());
    out.push_back(s.chat ? s.chat->jinja_source() : "no template");
    return out;
  }
  bool from_cache() const { return said_.find("tokenised data from the cache") != std::string::npos; }
  fs::path kept() const { return work_ / "kept"; }
  List files() const {
    List out;
    if (fs::exists(kept()))
      for (const auto& entry : fs::directory_iterator(kept())) out.push_back(entry.path().string());
    return out;
  }

  const Workspace work_;
  std::string said_;
};

TEST_F(CachedRun, IsTheSameRun) {
  for (const List& more : {List{}, List{"val_size=0.2"}, List{"eval_dataset=" + (work_ / "more.jsonl").string()},
                           List{"dataset=" + (work_ / "data.jsonl").string() + "#12," + (work_ / "more.jsonl").string(), "dataset_weights=2,1"},
                           List{"stage=pt", "dataset=" + work_.write("text.txt", "Once upon a time.\n\nThe end of it.\n").string()}}) {
    fs::remove_all(kept());
    List without = more;
    without.push_back("token_cache=false");
    const List plain = seen(run(without));
    EXPECT_TRUE(files().empty());
    EXPECT_EQ(seen(run(more)), plain);
    EXPECT_FALSE(from_cache());
    EXPECT_EQ(seen(run(more)), plain);
    EXPECT_TRUE(from_cache()) << said_;
  }
}

TEST_F(CachedRun, WhatIsKeptForOtherSettingsIsNotUsed) {
  run();
  EXPECT_EQ(files().size(), 1u);
  for (const char* other : {"cutoff_len=128", "template=alpaca", "train_on_prompt=true", "mask_history=true", "max_samples=20", "stage=sft"}) {
    run({other});
    EXPECT_EQ(from_cache(), std::string(other) == "stage=sft") << other;
  }
  // What comes after the tokens does not matter to them.
  run({"val_size=3", "per_device_train_batch_size=2", "learning_rate=1e-3", "packing=true"});
  EXPECT_TRUE(from_cache());
  // A row more, a tokenizer that changed.
  work_.write("data.jsonl", read_file(work_ / "data.jsonl") + small_alpaca(1));
  EXPECT_EQ(run().rows_read, 44);
  EXPECT_FALSE(from_cache());
  run();
  EXPECT_TRUE(from_cache());
  work_.write("model/tokenizer_config.json", R"({"add_bos_token": false})");
  run();
  EXPECT_FALSE(from_cache());
}

TEST_F(CachedRun, DamageIsMendedByTheNextRun) {
  const List plain = seen(run());
  const std::string file = files().at(0), good = read_file(file);
  std::string bad = good;
  bad[bad.size() / 2] ^= 4;
  write_file(file, bad);
  EXPECT_EQ(seen(run()), plain);
  EXPECT_FALSE(from_cache());
  EXPECT_NE(said_.find("checksum is wrong"), std::string::npos) << said_;
  EXPECT_TRUE(read_file(file) == good);
}

TEST_F(CachedRun, OverwriteCacheTokenisesAnew) {
  run();
  const std::string file = files().at(0);
  fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(5));
  const auto before = fs::last_write_time(file);
  run({"overwrite_cache=true"});
  EXPECT_FALSE(from_cache());
  EXPECT_GT(fs::last_write_time(file), before);
}

TEST_F(CachedRun, SmallDataLeavesNothingInTheUsersDirectory) {
  const char* before = std::getenv("ATTUNE_CACHE_DIR");
  const std::string old = before ? before : "";
  ::setenv("ATTUNE_CACHE_DIR", (work_ / "own").c_str(), 1);
  run({"tokenized_path="});
  EXPECT_FALSE(fs::exists(work_ / "own"));
  // What is there is used from there.
  run();
  fs::create_directories(work_ / "own");
  fs::rename(kept(), work_ / "own/tokens");
  run({"tokenized_path="});
  EXPECT_TRUE(from_cache());
  if (before) ::setenv("ATTUNE_CACHE_DIR", old.c_str(), 1);
  else ::unsetenv("ATTUNE_CACHE_DIR");
}

// A defect of others: their scripts validate on the directory that they train on.
TEST_F(CachedRun, ValidationOnTheTrainingDataIsSaid) {
  run({"eval_dataset=" + (work_ / "more.jsonl").string()});
  EXPECT_EQ(said_.find("trained on too"), std::string::npos) << said_;
  run({"eval_dataset=" + (work_ / "model/../data.jsonl").string()});
  EXPECT_NE(said_.find("data.jsonl is trained on too"), std::string::npos) << said_;
}

}  // namespace
}  // namespace attune::train
