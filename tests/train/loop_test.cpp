// The loop around the steps: the best model, early stopping, cross-validation, what freezing and precision leave in files.
#include <gtest/gtest.h>

#include "plan/planner.h"
#include "support/workspace.h"
#include "train/cross_validation.h"
#include "train/evaluate.h"
#include "train/trainer.h"
#include "models/load.h"
#include "support/fixtures.h"

namespace attune::train {
namespace {

using test::error_of;
using test::Workspace;
using List = std::vector<std::string>;

class Loop : public ::testing::Test {
 protected:
  Loop() {
    work_.write("data.jsonl", test::small_alpaca(40));
    Json config = test::small_llama_config();
    config["hidden_size"] = 16;
    config["intermediate_size"] = 32;
    test::make_small_model(work_ / "model", config);
  }
  List settings(const std::string& output, const List& more) {
    List s{"model_name_or_path=" + (work_ / "model").string(), "dataset=" + (work_ / "data.jsonl").string(), "template=default", "cutoff_len=96",
           "per_device_train_batch_size=4", "logging_steps=1", "learning_rate=1e-2", "lr_scheduler_type=constant",
           "output_dir=" + (work_ / output).string()};
    for (const std::string& item : more) {  // wins over what stands there
      const std::string key = item.substr(0, item.find('=') + 1);
      std::erase_if(s, [&](const std::string& other) { return other.starts_with(key); });
      s.push_back(item);
    }
    return s;
  }
  Json train(const std::string& output, const List& more) {
    ::testing::internal::CaptureStderr();
    try {
      RunSetup setup = prepare(load_config("", settings(output, more)));
      const std::string results = run_training(setup, plan::activation_bytes(setup));
      said_ = ::testing::internal::GetCapturedStderr();
      return parse_json(results, "results");
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
  }
  std::vector<int64_t> checkpoints(const std::string& output) {
    std::vector<int64_t> steps;
    for (const auto& entry : fs::directory_iterator(work_ / output))
      if (const std::string name = entry.path().filename().string(); name.starts_with("checkpoint-")) steps.push_back(std::stoll(name.substr(11)));
    std::sort(steps.begin(), steps.end());
    return steps;
  }
  // The loss of a saved model on what the run held out.
  double loss_of(const fs::path& directory, const List& more) {
    Config config = load_config("", settings("unused", more));
    auto model = test::load_model(directory);
    return evaluate_model(*model, *held_out_set(config, directory.string()), DType::f32, 4)["eval_loss"].get<double>();
  }
  Workspace work_;
  std::string said_;
};

// The highest loss counts as the best: a model that learns then stops early on every machine.
const List kUnsteady{"val_size=8", "eval_strategy=steps", "eval_steps=2", "greater_is_better=true", "max_steps=60", "save_strategy=no",
                     "early_stopping_patience=3", "load_best_model_at_end=true"};

TEST_F(Loop, StopsEarlyAndTheResultIsTheBestModelAsItsEvaluationSays) {
  const Json results = train("out", kUnsteady);
  ASSERT_TRUE(results["stopped_early"].get<bool>()) << said_;
  EXPECT_LT(results["steps"], 60);
  const Json state = read_json(work_ / "out/trainer_state.json");
  const auto best = state["best_global_step"].get<int64_t>();
  double highest = -1;
  int64_t at = 0, last = 0;
  for (const Json& e : state["log_history"])
    if (e.contains("eval_loss")) {
      last = e["step"].get<int64_t>();
      if (e["eval_loss"].get<double>() > highest) highest = e["eval_loss"].get<double>(), at = last;
    }
  EXPECT_EQ(best, at);
  EXPECT_EQ(last, best + 3 * 2);  // patience
  EXPECT_EQ(state["best_metric"].get<double>(), highest);
  EXPECT_EQ(checkpoints("out"), std::vector<int64_t>{best});  // those that were the best before are gone
  EXPECT_EQ(state["best_model_checkpoint"], (work_ / fmt::format("out/checkpoint-{}", best)).string());
  EXPECT_EQ(results["eval_loss"].get<double>(), highest);
  EXPECT_NEAR(loss_of(work_ / "out", kUnsteady), highest, 1e-6);
  EXPECT_TRUE(read_file(work_ / "out/model.safetensors") == read_file(work_ / fmt::format("out/checkpoint-{}/model.safetensors", best)));
}

TEST_F(Loop, WithoutLoadingTheBestTheResultIsTheLast) {
  List more = kUnsteady;
  more.back() = "load_best_model_at_end=false";
  const Json results = train("out", more);
  EXPECT_NEAR(loss_of(work_ / "out", more), results["eval_loss"].get<double>(), 1e-6);
  EXPECT_LT(results["eval_loss"].get<double>(), read_json(work_ / "out/trainer_state.json")["best_metric"].get<double>());
}

TEST_F(Loop, TheLimitNeverDeletesTheBest) {
  const Json results = train("out", {"val_size=8", "eval_strategy=steps", "eval_steps=2", "save_steps=2", "save_total_limit=1", "greater_is_better=true",
                                     "max_steps=40"});
  const auto best = read_json(work_ / "out/trainer_state.json")["best_global_step"].get<int64_t>();
  ASSERT_LT(best, 40) << said_;
  EXPECT_EQ(checkpoints("out"), (std::vector<int64_t>{best, 40}));
}

TEST_F(Loop, TheMetricDecidesAndMustExist) {
  const Json results = train("out", {"val_size=8", "eval_steps=2", "max_steps=8", "metric_for_best_model=eval_accuracy"});
  const Json state = read_json(work_ / "out/trainer_state.json");
  double most = -1;
  for (const Json& e : state["log_history"])
    if (e.contains("eval_accuracy")) most = std::max(most, e["eval_accuracy"].get<double>());
  EXPECT_EQ(state["best_metric"].get<double>(), most);
  const std::string message = error_of([&] { train("other", {"val_size=8", "eval_steps=2", "max_steps=4", "metric_for_best_model=bleu"}); });
  EXPECT_NE(message.find("eval_accuracy"), std::string::npos) << message;
}

TEST_F(Loop, EachDataSetIsEvaluatedByName) {
  work_.write("other.jsonl", test::small_alpaca(12));
  const Json results = train("out", {"dataset=" + (work_ / "data.jsonl").string() + "," + (work_ / "other.jsonl").string(), "val_size=0.3", "max_steps=2"});
  const auto tokens = results["eval_tokens"].get<double>();
  EXPECT_GT(tokens, 0);
  EXPECT_TRUE(results.contains("eval_data_loss") && results.contains("eval_other_loss")) << results.dump();
  const double low = std::min(results["eval_data_loss"].get<double>(), results["eval_other_loss"].get<double>()),
               high = std::max(results["eval_data_loss"].get<double>(), results["eval_other_loss"].get<double>());
  EXPECT_LE(low, results["eval_loss"].get<double>());
  EXPECT_GE(high, results["eval_loss"].get<double>());
}

// At rate 0 an epoch of training sees the model that evaluation sees: the same loss, the same share of likeliest words.
TEST_F(Loop, LossAndTokenAccuracyOfTheLogAreThoseOfTheWindow) {
  train("learnt", {"max_steps=30", "save_strategy=no"});
  const List common{"model_name_or_path=" + (work_ / "learnt").string(), "eval_dataset=" + (work_ / "data.jsonl").string(), "learning_rate=0",
                    "num_train_epochs=1"};
  List whole = common, each = common;
  whole.push_back("logging_steps=1000");
  each.push_back("logging_steps=1");
  const Json results = train("whole", whole);
  const Json entry = read_json(work_ / "whole/trainer_state.json")["log_history"][0];
  EXPECT_GT(results["eval_accuracy"].get<double>(), 0);
  EXPECT_DOUBLE_EQ(entry["mean_token_accuracy"].get<double>(), results["eval_accuracy"].get<double>());
  train("each", each);
  double sum = 0;
  const Json state = read_json(work_ / "each/trainer_state.json");
  for (const Json& e : state["log_history"])
    if (e.contains("mean_token_accuracy")) sum += e["mean_token_accuracy"].get<double>();
  EXPECT_NEAR(sum / 10, results["eval_accuracy"].get<double>(), 0.02);
}

TEST_F(Loop, CrossValidationHoldsEverySampleOutOnceAndResumesByFold) {
  int runs = 0;
  std::multiset<std::string> held;
  const auto once = [&](const Config& config, const Fold& fold) {
    ++runs;
    RunSetup setup = prepare(config, fold);
    if (fold.count > 0) {
      std::set<std::string> training;
      for (int64_t i = 0; i < setup.train_set->size(); ++i) training.insert(setup.train_set->where(i));
      for (int64_t i = 0; i < setup.eval_set->size(); ++i) {
        held.insert(setup.eval_set->where(i));
        EXPECT_EQ(training.count(setup.eval_set->where(i)), 0u);
      }
    } else {
      EXPECT_EQ(setup.eval_set, nullptr);
      EXPECT_EQ(setup.train_set->size(), 40);
    }
    return run_training(setup, plan::activation_bytes(setup));
  };
  ::testing::internal::CaptureStderr();
  const List more{"cross_validation=3", "max_steps=6", "save_strategy=no"};
  const Json summary = parse_json(cross_validate(load_config("", settings("cv", more)), once), "summary");
  EXPECT_EQ(runs, 4);
  EXPECT_EQ(held.size(), 40u);
  EXPECT_EQ(std::set<std::string>(held.begin(), held.end()).size(), 40u);
  double mean = 0, squares = 0;
  for (const Json& fold : summary["folds"]) mean += fold["eval_loss"].get<double>() / 3;
  for (const Json& fold : summary["folds"]) squares += std::pow(fold["eval_loss"].get<double>() - mean, 2);
  EXPECT_NEAR(summary["mean"]["eval_loss"].get<double>(), mean, 1e-12);
  EXPECT_NEAR(summary["standard_deviation"]["eval_loss"].get<double>(), std::sqrt(squares / 2), 1e-12);
  EXPECT_EQ(read_json(work_ / "cv/cross_validation.json"), summary);
  EXPECT_TRUE(fs::exists(work_ / "cv/model.safetensors"));
  EXPECT_FALSE(fs::exists(work_ / "cv/fold-1/model.safetensors"));
  // One fold lost: it alone runs again, and the final model.
  fs::remove_all(work_ / "cv/fold-2");
  runs = 0;
  List again = more;
  again.push_back("resume_from_checkpoint=true");
  const Json resumed = parse_json(cross_validate(load_config("", settings("cv", again)), once), "summary");
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(resumed["mean"], summary["mean"]);
  // Other rows under the same name: figures of before are not theirs.
  std::string rows = read_file(work_ / "data.jsonl");
  rows.replace(rows.find("day 7."), 6, "day 8.");
  work_.write("data.jsonl", rows);
  runs = 0;
  cross_validate(load_config("", settings("cv", again)), once);
  EXPECT_EQ(runs, 4);
  ::testing::internal::GetCapturedStderr();
}

TEST_F(Loop, ACheckpointOfTheModelAloneIsNotResumedAndSaysWhy) {
  train("alone", {"max_steps=4", "save_steps=2", "save_only_model=true"});
  const std::string error = error_of([&] { train("on", {"max_steps=4", "resume_from_checkpoint=" + (work_ / "alone/checkpoint-2").string()}); });
  EXPECT_NE(error.find("save_only_model"), std::string::npos) << error;
}

TEST_F(Loop, PrecisionOfTheResult) {
  const auto dtypes = [&](const std::string& output) {
    formats::ModelDirectory directory(work_ / output);
    std::set<std::string> names;
    for (const auto& [name, entry] : directory.tensors()) names.insert(entry.info->dtype);
    return std::pair(names, directory.config().contains("torch_dtype") ? directory.config()["torch_dtype"].get<std::string>() : "");
  };
  const List few{"max_steps=2", "save_strategy=no"};
  const auto with = [&](List more) {
    more.insert(more.end(), few.begin(), few.end());
    return more;
  };
  train("plain", with({"bf16=true"}));
  EXPECT_EQ(dtypes("plain").first, std::set<std::string>{"F32"});  // as the base
  train("pure", with({"pure_bf16=true"}));
  EXPECT_EQ(dtypes("pure"), std::pair(std::set<std::string>{"BF16"}, std::string("bfloat16")));
  train("half", with({"fp16=true", "save_dtype=fp16"}));
  EXPECT_EQ(dtypes("half"), std::pair(std::set<std::string>{"F16"}, std::string("float16")));
}

// bf16 holds frozen weights narrower than the base stores them: the result still has every bit of the base.
TEST_F(Loop, WhatIsFrozenIsSavedAsTheBaseHasIt) {
  train("out", {"finetuning_type=freeze", "freeze_trainable_layers=1", "bf16=true", "max_steps=3", "save_steps=2"});
  EXPECT_NE(said_.find("trainable parameters"), std::string::npos);
  formats::ModelDirectory base(work_ / "model");
  for (const char* result : {"out", "out/checkpoint-2"}) {
    formats::ModelDirectory tuned(work_ / result);
    int same = 0, changed = 0;
    for (const auto& [name, entry] : base.tensors()) {
      const auto a = test::read_tensor(*dynamic_cast<const formats::SafetensorsFile*>(entry.file), name);
      const auto b = test::read_tensor(*dynamic_cast<const formats::SafetensorsFile*>(tuned.tensors().at(name).file), name);
      const bool last_layer = name.find("layers.1.") != std::string::npos;
      EXPECT_EQ(a == b, !last_layer) << name;
      (a == b ? same : changed)++;
    }
    EXPECT_GT(same, 5);
    EXPECT_GT(changed, 5);
  }
}

TEST_F(Loop, TheBaseIsMeasuredFirstAndABetterBaseIsSaid) {
  train("out", {"val_size=8", "eval_on_start=true", "max_steps=4", "eval_steps=2", "learning_rate=5", "load_best_model_at_end=true"});
  EXPECT_NE(said_.find("the base model was no worse"), std::string::npos) << said_;
  const Json history = read_json(work_ / "out/trainer_state.json")["log_history"];
  EXPECT_EQ(history[0]["step"], 0);
  EXPECT_TRUE(history[0].contains("eval_loss"));
}

TEST_F(Loop, ALoggedAccuracyIsThatOfItsOwnUpdates) {
  // With a rate of 0 training and evaluation see one model: on the same batch they agree.
  train("first", {"max_steps=30"});
  train("out", {"model_name_or_path=" + (work_ / "first").string(), "eval_dataset=" + (work_ / "data.jsonl").string(),
                "per_device_train_batch_size=40", "learning_rate=0", "max_steps=2"});
  double trained = -1, evaluated = -2;
  const Json history = read_json(work_ / "out/trainer_state.json")["log_history"];
  for (const Json& e : history) {
    if (e.contains("mean_token_accuracy") && e["step"] == 1) trained = e["mean_token_accuracy"].get<double>();
    if (e.contains("eval_accuracy")) evaluated = e["eval_accuracy"].get<double>();
  }
  EXPECT_GT(evaluated, 0);
  EXPECT_NEAR(trained, evaluated, 2e-3);  // one token may tip over: the batches differ in size
}

TEST_F(Loop, AWrongMetricIsFoundBeforeTheFirstUpdate) {
  EXPECT_NE(error_of([&] { train("out", {"val_size=8", "max_steps=4", "metric_for_best_model=bleu"}); }), "");
  EXPECT_FALSE(fs::exists(work_ / "out/trainer_log.jsonl"));
}

// Otherwise what was trained before and is frozen now would be saved as the base has it.
TEST_F(Loop, ARunContinuesOnlyWithTheSameTrainedParameters) {
  const auto with = [](List more) {
    more.insert(more.end(), {"bf16=true", "max_steps=4", "save_steps=2"});
    return more;
  };
  train("out", with({"finetuning_type=freeze", "freeze_trainable_layers=2"}));
  const auto resumed = [&](List more) {
    more.push_back("resume_from_checkpoint=true");
    return error_of([&] { train("out", with(more)); });
  };
  EXPECT_NE(resumed({"finetuning_type=freeze", "freeze_trainable_layers=1"}).find("trainable_parameters"), std::string::npos);
  EXPECT_NE(resumed({}).find("finetuning_type"), std::string::npos);
}

// The best evaluation of the first part left no checkpoint: it cannot be the result, and the run must not end for it.
TEST_F(Loop, ABestModelThatWasNotKeptDoesNotEndAResumedRun) {
  const List run{"val_size=8", "eval_strategy=steps", "eval_steps=1", "learning_rate=2", "save_steps=8"};
  const auto with = [&](List more) {
    more.insert(more.end(), run.begin(), run.end());
    return more;
  };
  train("out", with({"max_steps=8"}));
  ASSERT_LT(read_json(work_ / "out/trainer_state.json")["best_global_step"], 8);
  const Json results = train("out", with({"max_steps=10", "load_best_model_at_end=true", "resume_from_checkpoint=true"}));
  EXPECT_NE(said_.find("begins anew"), std::string::npos) << said_;
  EXPECT_GT(results["best_step"], 8);
}

TEST_F(Loop, CrossValidationLooksAtTheOutputBeforeItsFolds) {
  work_.write("cv/model.safetensors", "precious");
  int runs = 0;
  const auto once = [&](const Config&, const Fold&) { return ++runs, std::string("{}"); };
  const Config config = load_config("", settings("cv", {"cross_validation=2"}));
  EXPECT_NE(error_of([&] { cross_validate(config, once); }), "");
  EXPECT_EQ(runs, 0);
}

TEST_F(Loop, AMetricThatOneFoldDoesNotHaveIsNotAveraged) {
  int runs = 0;
  const auto once = [&](const Config& config, const Fold&) {
    fs::create_directories(config.output_dir);
    return ++runs == 1 ? std::string(R"({"eval_loss": 1, "eval_small_loss": 2})") : std::string(R"({"eval_loss": 3})");
  };
  const Config config = load_config("", settings("cv", {"cross_validation=2", "cross_validation_model=none"}));
  ::testing::internal::CaptureStderr();
  const Json summary = parse_json(cross_validate(config, once), "summary");
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(summary["mean"], (Json{{"eval_loss", 2.0}}));
}

}  // namespace
}  // namespace attune::train
