// What a plan says is what a run takes, and what it proposes is what a plan of that says.
#include <fmt/ranges.h>

#include "cli/program.h"
#include "plan/report.h"
#include "models/load.h"
#include "support/errors.h"
#include "support/workspace.h"
#include "train/config_schema.h"
#include "util/machine.h"

namespace attune {
namespace {

using namespace test;
using plan::Plan;
using plan::Suggestion;
using List = std::vector<std::string>;

class Planner : public ::testing::Test {
 protected:
  Planner() {
    work_.write("data.jsonl", small_alpaca(24));
    Json config = small_llama_config();
    config["hidden_size"] = 128, config["intermediate_size"] = 352, config["num_hidden_layers"] = 4;
    work_.write("config.json", config.dump(1));
    work_.write("shapes/config.json", config.dump(1));  // no weights, no tokenizer
    copy_small_tokenizer(work_ / "tokenizer");
    EXPECT_EQ(run({"init", "--config", at("config.json"), "--out", at("base"), "--tokenizer", at("tokenizer")}).code, 0);
  }
  std::string at(const std::string& name) const { return (work_ / name).string(); }
  train::Config config(List more = {}) const {
    List all{"model_name_or_path=" + at("base"), "dataset=" + at("data.jsonl"), "template=default", "finetuning_type=full",
             "cutoff_len=96", "per_device_train_batch_size=4", "output_dir=" + at("out")};
    // A later setting of a key replaces an earlier one.
    for (const std::string& m : more) {
      std::erase_if(all, [&](const std::string& a) { return a.starts_with(m.substr(0, m.find('=') + 1)); });
      all.push_back(m);
    }
    return train::load_config("", all);
  }
  train::RunSetup setup(List more = {}) const { return train::prepare(config(more)); }
  static std::string with_key(const train::Config& c, const char* key) { return train::find_key(key)->get(c); }
  static uint64_t sum(const std::map<std::string, uint64_t>& parts) {
    uint64_t bytes = 0;
    for (const auto& [name, part] : parts) bytes += part;
    return bytes;
  }
  Workspace work_;
};

const std::vector<List> kConfigurations{
    {}, {"bf16=true"}, {"bf16=true", "packing=true", "gradient_accumulation_steps=2"}, {"gradient_checkpointing=block"}, {"gradient_checkpointing=none"},
    {"pure_bf16=true", "optim=adafactor", "optimizer_in_backward=true"},
    {"pure_bf16=true", "optim=sgd", "optimizer_in_backward=true", "gradient_checkpointing=block", "packing=true"}, {"val_size=4", "per_device_eval_batch_size=16"},
    {"finetuning_type=lora", "quantization_bit=4", "bf16=true"}, {"finetuning_type=lora", "quantization_bit=8", "gradient_checkpointing=block", "val_size=4"}};

TEST_F(Planner, PartsAddUpToThePeakAndTheArenasToItsHighWater) {
  for (const List& more : kConfigurations) {
    const auto s = setup(more);
    const Plan p = plan::make_plan(s, nullptr);
    EXPECT_EQ(sum(p.arena), p.parts.activations) << fmt::format("{}", fmt::join(more, " "));
    const Json json = parse_json(plan::plan_json(p, {}), "plan");
    uint64_t total = 0;
    for (const auto& [name, bytes] : json["parts"].items()) total += bytes.get<uint64_t>();
    EXPECT_EQ(total, json["peak_memory_bytes"].get<uint64_t>());
    EXPECT_GT(p.arena.at("blocks"), 0u);
  }
}

TEST_F(Planner, AQuantisedBaseIsCountedAsItIsHeld) {
  const auto weights = [&](const List& more) {
    List all{"finetuning_type=lora", "bf16=true"};
    all.insert(all.end(), more.begin(), more.end());
    return static_cast<double>(plan::make_plan(setup(all), nullptr).parts.weights);
  };
  // Of 4 layers the weights of q, k, v, o (kv of 2 heads below), gate, up and down.
  const auto s = setup();
  const auto& a = s.architecture;
  const double linear = static_cast<double>(a.num_hidden_layers * a.hidden_size) *
                        static_cast<double>(2 * a.num_attention_heads * a.head_dim + 2 * a.num_key_value_heads * a.head_dim + 3 * a.intermediate_size);
  const double dense = weights({});
  for (const auto& [setting, bits] : {std::pair<List, double>{{"quantization_bit=4"}, 4 + 8.125 / 64}, {{"quantization_bit=4", "double_quantization=false"}, 4.5}, {{"quantization_bit=8"}, 8}})
    // Rows of 128 make the scales of int8 a thirty-second of a byte each.
    EXPECT_NEAR(dense - weights(setting), linear * (2 - bits / 8), 0.03 * linear) << setting[0];
}

TEST_F(Planner, RecomputationKeepsLessByBlock) {
  const Plan all = plan::make_plan(setup({"gradient_checkpointing=none"}), nullptr), light = plan::make_plan(setup(), nullptr),
             one = plan::make_plan(setup({"gradient_checkpointing=block"}), nullptr);
  EXPECT_LT(one.arena.at("blocks"), all.arena.at("blocks") / 4);
  // Two norms, the gated activation and what goes with them: d, d and ff of 5d + q + 2kv + 3ff a token and layer.
  const auto& c = setup().architecture;
  const int64_t saved = 2 * c.hidden_size + c.intermediate_size;
  const int64_t full = 4 * c.hidden_size + 3 * c.intermediate_size + 2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads);
  EXPECT_NEAR(static_cast<double>(light.arena.at("blocks")) / static_cast<double>(all.arena.at("blocks")),
              1 - static_cast<double>(saved) / static_cast<double>(full), 0.05);
}

TEST_F(Planner, DryArenaIsTheRealOneToTheByte) {
  for (const List& more : kConfigurations) {
    auto s = setup(more);
    const Plan p = plan::make_plan(s, nullptr);
    models::Decoder model(s.architecture);
    train::allocate_model(model, s.engine, Place::host());
    models::load_weights(model, *s.directory);
    train::Engine engine(model, *s.objective, s.engine, Place::host(), p.parts.activations);
    const train::MemoryParts empty = engine.memory();
    EXPECT_EQ(empty.weights + empty.masters + empty.gradients + empty.optimizer + empty.tables, p.parts.total() - p.parts.activations);
    Step step;
    for (int64_t i = 0; i < s.train_batches->steps_in_epoch(0); ++i) {  // a step beyond the arena fails
      s.train_batches->make_step(0, i, step);
      engine.step(step, i + 1, 1e-4f);
    }
    if (s.eval_batches) {
      std::vector<objectives::Outcome> outcomes;
      s.eval_batches->make_step(0, 0, step);
      engine.evaluate(step, outcomes);
    }
    EXPECT_EQ(engine.arena().high_water(), p.parts.activations) << fmt::format("{}", fmt::join(more, " "));
  }
}

TEST_F(Planner, WorkIsThatOfTheRealSteps) {
  for (const List& more : {List{}, List{"bf16=true", "gradient_accumulation_steps=2", "packing=true"}, List{"pure_bf16=true", "optim=adafactor", "optimizer_in_backward=true"}}) {
    List few = more;
    few.push_back("max_steps=2");
    auto s = setup(few);
    plan::Calibration calibration(0.05, 1 << 24);
    const Plan p = plan::make_plan(s, &calibration);
    models::Decoder model(s.architecture);
    train::allocate_model(model, s.engine, Place::host());
    models::load_weights(model, *s.directory);
    train::Engine engine(model, *s.objective, s.engine, Place::host(), p.parts.activations);
    double flops = 0, bytes = 0;
    int64_t tokens = 0;
    Step step;
    for (int64_t i = 0; i < 2; ++i) {
      s.train_batches->make_step(0, i, step);
      engine.step(step, i + 1, 1e-4f);
      flops += engine.step_work().flops / 2, bytes += engine.step_work().bytes / 2;
      for (const MicroBatch& b : step.micro_batches) tokens += b.token_count();
    }
    EXPECT_NEAR(p.step.flops, flops, 1e-6 * flops);
    EXPECT_NEAR(p.step.bytes, bytes, 1e-6 * bytes);
    EXPECT_EQ(p.tokens, tokens);
    EXPECT_GT(p.seconds, 0);
    EXPECT_NEAR(p.tokens_per_second, static_cast<double>(tokens) / p.seconds, 1e-6 * p.tokens_per_second);
  }
}

TEST_F(Planner, ConfigAloneIsTheWorstCase) {
  const Result r = run({"plan", "model_name_or_path=" + at("shapes"), "finetuning_type=full", "cutoff_len=96", "per_device_train_batch_size=4", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json alone = parse_json(r.out, "plan");
  EXPECT_FALSE(alone["from_data"].get<bool>());
  EXPECT_EQ(alone["duration_seconds"].get<double>(), 0);  // nobody said how many updates
  EXPECT_GT(alone["tokens_per_second"].get<double>(), 0);
  const Plan with_data = plan::make_plan(setup(), nullptr);
  EXPECT_GE(alone["parts"]["activations"].get<uint64_t>(), with_data.arena.at("blocks"));
  const Result timed = run({"plan", "model_name_or_path=" + at("shapes"), "finetuning_type=full", "cutoff_len=96", "max_steps=7", "--json"});
  ASSERT_EQ(timed.code, 0) << timed.err;
  EXPECT_GT(parse_json(timed.out, "plan")["duration_seconds"].get<double>(), 0);
  // An empty file, and data that nobody could read.
  work_.write("empty.yaml", "");
  EXPECT_EQ(run({"plan", at("empty.yaml"), "model_name_or_path=" + at("shapes")}).code, 0);
  expect_failure(run({"plan", "model_name_or_path=" + at("shapes"), "dataset=" + at("data.jsonl")}), 2, "Leave dataset out");
  expect_failure(run({"train", "model_name_or_path=" + at("shapes")}), 2, "dataset is missing");
}

TEST_F(Planner, WithAndWithoutDataAgreeWhereEverySequenceIsFull) {
  std::string rows;
  for (int i = 0; i < 8; ++i) rows += R"({"text": ")" + std::string(4000, 'a' + static_cast<char>(i)) + "\"}\n";
  work_.write("text.jsonl", rows);
  const List more{"dataset=" + at("text.jsonl"), "stage=pt", "cutoff_len=32", "bf16=true"};
  const Plan with = plan::make_plan(setup(more), nullptr), without = plan::make_plan(train::prepare_without_data(config(more)), nullptr);
  EXPECT_EQ(with.parts.total(), without.parts.total());
}

TEST_F(Planner, SuggestionsAreWhatAPlanOfThemSays) {
  const auto s = setup({"gradient_accumulation_steps=2"});
  Plan p = plan::make_plan(s, nullptr);
  p.available_bytes = p.peak_bytes() - p.parts.total() / 3;
  const auto found = plan::suggestions(s, p, nullptr, 50);
  ASSERT_GT(found.size(), 3u);
  double price = 0;
  for (const Suggestion& x : found) {
    EXPECT_TRUE(x.fits) << x.change();
    EXPECT_LE(x.peak_bytes, p.available_bytes);
    EXPECT_GE(x.price, price) << x.change();  // cheapest first
    price = x.price;
    List more{"gradient_accumulation_steps=2"};
    for (const auto& [key, value] : x.settings) {
      std::erase_if(more, [&key = key](const std::string& m) { return m.starts_with(key + "="); });
      more.push_back(key + "=" + value);
    }
    const Plan same = plan::make_plan(setup(more), nullptr);
    EXPECT_EQ(same.parts.total() + same.library_bytes, x.peak_bytes - p.program_bytes) << x.change();
  }
  // Cutting sequences is for when nothing else helps.
  for (const Suggestion& x : found) EXPECT_EQ(x.change().find("cutoff_len"), std::string::npos);
  p.available_bytes = 1;
  const auto nearest = plan::suggestions(s, p, nullptr, 3);
  ASSERT_EQ(nearest.size(), 3u);
  EXPECT_FALSE(nearest[0].fits);
  EXPECT_LE(nearest[0].peak_bytes, nearest[1].peak_bytes);
}

TEST_F(Planner, WhatTheEngineRefusesIsNotProposed) {
  const auto s = setup({"clipping=global", "gradient_accumulation_steps=2"});
  Plan p = plan::make_plan(s, nullptr);
  p.available_bytes = p.peak_bytes() - 1;
  for (const Suggestion& x : plan::suggestions(s, p, nullptr, 100)) EXPECT_EQ(x.change().find("optimizer_in_backward"), std::string::npos) << x.change();
}

TEST_F(Planner, AutoBatchKeepsTheUpdateThatAccumulationAsksFor) {
  auto s = setup({"per_device_train_batch_size=auto", "gradient_accumulation_steps=8"});
  const auto said = plan::settle(s);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(s.config.per_device_train_batch_size, 8);
  EXPECT_EQ(s.config.gradient_accumulation_steps, 1);
  EXPECT_NE(s.config.resolved_yaml().find("per_device_train_batch_size: 8\n"), std::string::npos);
  auto odd = setup({"per_device_train_batch_size=auto", "gradient_accumulation_steps=6"});
  plan::settle(odd);
  EXPECT_EQ(odd.config.per_device_train_batch_size * odd.config.gradient_accumulation_steps, 6);
  auto free = setup({"per_device_train_batch_size=auto"});
  plan::settle(free);
  EXPECT_EQ(free.config.per_device_train_batch_size, 16);  // of 24 samples
}

TEST_F(Planner, AutoFitTakesTheFirstOfTheRankingAndKeepsItOnResume) {
  const auto s = setup();
  Plan p = plan::make_plan(s, nullptr);
  p.available_bytes = p.peak_bytes() - p.parts.total() / 3;
  const auto first = plan::suggestions(s, p, nullptr, 1);
  auto fitted = setup({"auto_fit=true"});
  p.program_bytes = plan::make_plan(fitted, nullptr).program_bytes;
  p.available_bytes = p.peak_bytes() - p.parts.total() / 3;
  const auto said = plan::settle(fitted, p.available_bytes);
  ASSERT_EQ(said.size(), 1u);
  const Plan chosen = plan::make_plan(fitted, nullptr);
  EXPECT_LT(chosen.parts.total(), p.parts.total());
  const Plan timed = [&] {
    plan::Calibration calibration(0.2, 1 << 24);
    Plan t = plan::make_plan(s, &calibration);
    t.available_bytes = p.available_bytes;
    return t;
  }();
  EXPECT_GT(timed.tokens_per_second, 0);
  ASSERT_FALSE(first.empty());
  // What it records, a resumed run takes, however much memory there is by then.
  work_.write("out/attune_config.yaml", fitted.config.resolved_yaml());
  auto resumed = setup({"auto_fit=true", "resume_from_checkpoint=true"});
  plan::settle(resumed);
  for (const char* key : {"gradient_checkpointing", "pure_bf16", "optim", "optimizer_in_backward", "per_device_train_batch_size", "gradient_accumulation_steps"})
    EXPECT_EQ(with_key(resumed.config, key), with_key(fitted.config, key)) << key;
  EXPECT_NE(with_key(resumed.config, "gradient_checkpointing") + with_key(resumed.config, "pure_bf16"),
            with_key(s.config, "gradient_checkpointing") + with_key(s.config, "pure_bf16"));
}

TEST_F(Planner, AutoFitThatNothingCanHelpSaysSo) {
  auto s = setup({"auto_fit=true"});
  EXPECT_NE(error_of([&] { plan::settle(s, 1000); }).find("no combination of settings"), std::string::npos);
}

TEST_F(Planner, AutoValuesAreTrainedWithAndRecorded) {
  const Result r = run({"train", "model_name_or_path=" + at("base"), "dataset=" + at("data.jsonl"), "template=default", "cutoff_len=96", "max_steps=2",
                        "per_device_train_batch_size=auto", "gradient_accumulation_steps=4", "auto_fit=true", "output_dir=" + at("trained"), "save_steps=1"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(says(r.err, "auto is 4")) << r.err;
  const train::Config recorded = train::read_resolved(work_ / "trained/attune_config.yaml");
  EXPECT_EQ(recorded.per_device_train_batch_size, 4);
  EXPECT_EQ(recorded.gradient_accumulation_steps, 1);
  EXPECT_TRUE(recorded.auto_fit);
}

TEST(MemoryWatch, WarnsOnceOfSwapAndOfLittleMemory) {
  MemoryWatch watch;
  EXPECT_EQ(watch.judge(swapped_memory_bytes(), 50, 100), "");
  EXPECT_NE(watch.judge(swapped_memory_bytes() + 100'000'000, 50, 100), "");
  EXPECT_EQ(watch.judge(swapped_memory_bytes() + 900'000'000, 50, 100), "");
  MemoryWatch other;
  EXPECT_NE(other.judge(swapped_memory_bytes(), 2, 100), "");
}

}  // namespace
}  // namespace attune
