// Rewards, preferences and pipelines from the command line.
#include <cstring>
#include <random>

#include "cli/program.h"
#include "util/json.h"

namespace attune {
namespace {

using namespace test;

class Preferences : public ::testing::Test {
 protected:
  Preferences() {
    work_.write("config.json", small_llama_config().dump(1));
    copy_small_tokenizer(work_ / "tokenizer");
    const Result r = run({"init", "--config", at("config.json"), "--out", at("base"), "--tokenizer", at("tokenizer"), "--seed", "3"});
    EXPECT_EQ(r.code, 0) << r.err;
    std::string pairs, judged, text;
    for (int i = 0; i < 24; ++i) {
      const std::string n = std::to_string(i);
      pairs += R"({"prompt":"question )" + n + R"(","chosen":"yes, )" + n + R"( it is","rejected":"no )" + n + "\"}\n";
      judged += R"({"prompt":"question )" + n + R"(","completion":")" + (i % 2 ? "yes, it is" : "no") + R"(","label":)" + (i % 2 ? "true" : "false") + "}\n";
      text += R"({"text":"the answer to question )" + n + R"( is yes"})" + "\n";
    }
    work_.write("pairs.jsonl", pairs);
    work_.write("judged.jsonl", judged);
    work_.write("text.jsonl", text);
    work_.write("chat.jsonl", small_alpaca(24));
  }
  std::string at(const std::string& name) const { return (work_ / name).string(); }
  Result train(const std::string& stage, const std::string& data, const std::vector<std::string>& more) {
    std::vector<std::string> all{"train", "model_name_or_path=" + at("base"), "stage=" + stage, "finetuning_type=full", "dataset=" + at(data), "template=default",
                                 "cutoff_len=96", "per_device_train_batch_size=4", "val_size=6", "logging_steps=1", "learning_rate=3e-3", "output_dir=" + at("out")};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }
  Json result(const std::string& file) const { return read_json(work_ / file); }
  Workspace work_;
};

TEST_F(Preferences, DpoLearnsWhichAnswerIsBetter) {
  const Result r = train("dpo", "pairs.jsonl", {"max_steps=12"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json e = result("out/eval_results.json");
  EXPECT_GT(e["eval_rewards/accuracies"].get<double>(), 0.9);
  EXPECT_GT(e["eval_rewards/margins"].get<double>(), 0.0);
  EXPECT_LT(e["eval_loss"].get<double>(), 0.69);
  EXPECT_FALSE(e.contains("eval_perplexity"));  // of a loss over pairs it would mean nothing
  const Json first = result("out/trainer_state.json")["log_history"][0];
  // Before anything is learnt policy and reference are the same model.
  EXPECT_NEAR(first["loss"].get<double>(), std::log(2.0), 1e-4);
  EXPECT_NEAR(first["rewards/margins"].get<double>(), 0, 1e-4);
  EXPECT_TRUE(fs::exists(work_ / "out/reference_logps.safetensors"));
}

TEST_F(Preferences, ASeparateReferenceIsUsed) {
  const Result other = run({"init", "--config", at("config.json"), "--out", at("other"), "--tokenizer", at("tokenizer"), "--seed", "4"});
  ASSERT_EQ(other.code, 0) << other.err;
  const Result r = train("dpo", "pairs.jsonl", {"max_steps=1", "ref_model=" + at("other")});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_GT(std::abs(result("out/trainer_state.json")["log_history"][0]["loss"].get<double>() - std::log(2.0)), 1e-3);
  EXPECT_TRUE(says(train("dpo", "pairs.jsonl", {"max_steps=1", "ref_model=" + at("nowhere"), "overwrite_output_dir=true"}).err, "nowhere"));
  // The same number of rows says nothing of what stands in them.
  ASSERT_EQ(run({"tokenizer", "train", at("text.jsonl"), "--out", at("words"), "--vocab-size", "300"}).code, 0);
  ASSERT_EQ(run({"init", "--config", at("config.json"), "--out", at("foreign"), "--tokenizer", at("words")}).code, 0);
  expect_failure(train("dpo", "pairs.jsonl", {"max_steps=1", "ref_model=" + at("foreign"), "overwrite_output_dir=true"}), 2, "has other tokens");
  EXPECT_TRUE(fs::exists(work_ / "out/train_results.json"));  // seen before anything is cleared
}

// What is kept belongs to a model, not to the name of a directory.
TEST_F(Preferences, AReferenceThatHasChangedIsAskedAnew) {
  const auto make = [&](const std::string& name, const std::string& seed) {
    fs::remove_all(work_ / name);
    const Result r = run({"init", "--config", at("config.json"), "--out", at(name), "--tokenizer", at("tokenizer"), "--seed", seed});
    ASSERT_EQ(r.code, 0) << r.err;
  };
  const auto asked = [&](const std::vector<std::string>& more) {  // a new run that finds what an earlier one has kept
    const std::string kept = fs::exists(work_ / "out/reference_logps.safetensors") ? read_file(work_ / "out/reference_logps.safetensors") : "";
    fs::remove_all(work_ / "out");
    if (!kept.empty()) work_.write("out/reference_logps.safetensors", kept);
    auto settings = more;
    settings.insert(settings.end(), {"max_steps=2", "save_steps=1"});
    const Result r = train("dpo", "pairs.jsonl", settings);
    EXPECT_EQ(r.code, 0) << r.err;
    return says(r.err, "reference: ");
  };
  EXPECT_TRUE(asked({}));
  EXPECT_FALSE(asked({}));
  make("base", "5");
  EXPECT_TRUE(asked({}));
  make("other", "6");
  EXPECT_TRUE(asked({"ref_model=" + at("other")}));
  EXPECT_FALSE(asked({"ref_model=" + at("other")}));
  make("other", "7");
  EXPECT_TRUE(asked({"ref_model=" + at("other")}));
  // A run in the middle of its way does not change its reference.
  make("other", "8");
  fs::remove(work_ / "out/train_results.json");
  expect_failure(train("dpo", "pairs.jsonl", {"ref_model=" + at("other"), "max_steps=2", "resume_from_checkpoint=true"}), 2, "the reference is another model");
  // What is damaged is made anew.
  make("other", "7");
  work_.write("out/reference_logps.safetensors", read_file(work_ / "out/reference_logps.safetensors").substr(0, 300));
  EXPECT_TRUE(asked({"ref_model=" + at("other")}));
}

// A run that was killed while it asked the reference goes on where it was.
TEST_F(Preferences, OfAReferenceOnlyWhatIsMissingIsAsked) {
  const Result first = train("dpo", "pairs.jsonl", {"max_steps=8"});
  ASSERT_EQ(first.code, 0) << first.err;
  const std::string whole = read_file(work_ / "out/reference_logps.safetensors");
  std::string part = whole;
  const uint32_t unknown = 0x7FC00000u;
  std::memcpy(&part[part.size() - 4], &unknown, 4);
  fs::remove_all(work_ / "out");
  work_.write("out/reference_logps.safetensors", part);
  const Result second = train("dpo", "pairs.jsonl", {"max_steps=8"});
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_TRUE(read_file(work_ / "out/reference_logps.safetensors") == whole);
  const auto tokens = [](const Result& r) {
    const std::string mark = "log-probabilities of ";
    const size_t at = r.err.find(mark);
    return at == std::string::npos ? 0 : std::stoi(r.err.substr(at + mark.size()));
  };
  EXPECT_GT(tokens(second), 0);
  EXPECT_LT(4 * tokens(second), tokens(first)) << second.err;
}

TEST_F(Preferences, ResumedItGoesOnWithTheSameReference) {
  ASSERT_EQ(train("dpo", "pairs.jsonl", {"max_steps=8", "output_dir=" + at("whole")}).code, 2);  // output_dir twice
  const std::vector<std::string> settings{"max_steps=8", "save_steps=4"};
  ASSERT_EQ(train("dpo", "pairs.jsonl", settings).code, 0);
  const std::string whole = read_file(work_ / "out/model.safetensors");
  fs::remove(work_ / "out/train_results.json");
  fs::remove_all(work_ / "out/checkpoint-8");
  auto again = settings;
  again.push_back("resume_from_checkpoint=true");
  for (const bool kept : {true, false}) {  // the file may be lost: then the base is asked once more
    if (!kept) fs::remove(work_ / "out/reference_logps.safetensors"), fs::remove_all(work_ / "out/checkpoint-8");
    const Result r = train("dpo", "pairs.jsonl", again);
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(says(r.err, "reference: "), !kept);
    EXPECT_TRUE(read_file(work_ / "out/model.safetensors") == whole) << kept;
  }
}

TEST_F(Preferences, LossesWithoutReferenceComputeNone) {
  for (const char* loss : {"orpo", "simpo", "cpo"}) {
    const Result r = train("dpo", "pairs.jsonl", {"max_steps=3", std::string("pref_loss=") + loss, "overwrite_output_dir=true"});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_FALSE(fs::exists(work_ / "out/reference_logps.safetensors")) << loss;
  }
  expect_failure(train("dpo", "pairs.jsonl", {"pref_loss=sigmod"}), 2, "sigmod");
  expect_failure(train("dpo", "pairs.jsonl", {"pref_loss=sigmoid,orpo", "pref_loss_weights=1"}), 2, "1 numbers for 2 losses");
  expect_failure(train("dpo", "pairs.jsonl", {"pref_loss=exo_pair"}), 2, "dpo_label_smoothing");
}

// A flag that is read and never passed on has no effect: that would be a defect (MedicalGPT's beta and weight_decay in DPO).
TEST_F(Preferences, EverySettingReachesTheRun) {
  const auto model = [&](const std::vector<std::string>& more) {
    auto settings = more;
    settings.insert(settings.end(), {"max_steps=3", "overwrite_output_dir=true"});
    const Result r = train("dpo", "pairs.jsonl", settings);
    EXPECT_EQ(r.code, 0) << r.err;
    return read_file(work_ / "out/model.safetensors");
  };
  const std::string plain = model({});
  for (const char* setting : {"pref_beta=0.5", "weight_decay=0.1", "pref_ftx=1", "dpo_label_smoothing=0.2", "pref_loss=ipo", "max_grad_norm=0.01"})
    EXPECT_FALSE(model({setting}) == plain) << setting;
  EXPECT_TRUE(model({}) == plain);
}

// orpo, simpo and cpo are stages by name; TRL's DPOTrainer knows no such loss_type.
TEST_F(Preferences, LossesThatAreStagesByName) {
  for (const char* loss : {"orpo", "simpo", "cpo"}) {
    ASSERT_EQ(train("dpo", "pairs.jsonl", {"max_steps=3", std::string("pref_loss=") + loss, "overwrite_output_dir=true"}).code, 0);
    const std::string as_loss = read_file(work_ / "out/model.safetensors");
    const Result r = train(loss, "pairs.jsonl", {"max_steps=3", "overwrite_output_dir=true"});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_TRUE(read_file(work_ / "out/model.safetensors") == as_loss) << loss;
  }
  EXPECT_EQ(train("orpo", "pairs.jsonl", {"max_steps=1", "pref_loss=orpo", "overwrite_output_dir=true"}).code, 0);
  expect_failure(train("orpo", "pairs.jsonl", {"pref_loss=simpo"}), 2, "stage: orpo is stage dpo with pref_loss: orpo, but pref_loss says simpo");
}

TEST_F(Preferences, SeveralMicroBatchesAndPacksLearnTheSame) {
  const auto loss = [&](const std::vector<std::string>& more) {
    auto settings = more;
    settings.insert(settings.end(), {"max_steps=4", "overwrite_output_dir=true", "val_size=0"});
    const Result r = run([&] {
      std::vector<std::string> all{"train", "model_name_or_path=" + at("base"), "stage=dpo", "finetuning_type=full", "dataset=" + at("pairs.jsonl"), "template=default",
                                   "cutoff_len=96", "logging_steps=4", "learning_rate=3e-3", "pref_loss=aot", "output_dir=" + at("out")};
      all.insert(all.end(), settings.begin(), settings.end());
      return all;
    }());
    EXPECT_EQ(r.code, 0) << r.err;
    return result("out/train_results.json")["train_loss"].get<double>();
  };
  const double one = loss({"per_device_train_batch_size=4"});
  EXPECT_NEAR(loss({"per_device_train_batch_size=2", "gradient_accumulation_steps=2"}), one, 1e-4);
  EXPECT_NEAR(loss({"per_device_train_batch_size=1", "gradient_accumulation_steps=4", "gradient_checkpointing=block"}), one, 1e-4);
}

TEST_F(Preferences, KtoLearnsFromJudgedAnswers) {
  const Result r = train("kto", "judged.jsonl", {"max_steps=16"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json e = result("out/eval_results.json");
  EXPECT_GT(e["eval_rewards/chosen"].get<double>(), e["eval_rewards/rejected"].get<double>());
  EXPECT_TRUE(e.contains("eval_kl"));
}

TEST_F(Preferences, ARewardModelIsTrainedSavedLoadedAndAsked) {
  const Result r = train("rm", "pairs.jsonl", {"max_steps=16", "center_rewards_coefficient=0.01"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json e = result("out/eval_results.json");
  EXPECT_GT(e["eval_rewards/accuracies"].get<double>(), 0.9);
  EXPECT_TRUE(e.contains("eval_calibration_error"));
  const Json config = result("out/config.json");
  EXPECT_EQ(config["architectures"][0], "LlamaForSequenceClassification");
  EXPECT_EQ(config["id2label"].size(), 1u);
  const Result scores = run({"score", "--reward", "--model", at("out"), "--file", at("pairs.jsonl"), "--template", "default"});
  ASSERT_EQ(scores.code, 0) << scores.err;
  int won = 0;
  const auto lines = lines_of(scores.out);
  ASSERT_EQ(lines.size(), 24u);
  for (const std::string& line : lines) won += parse_json(line, "line")["margin"].get<double>() > 0;
  EXPECT_GE(won, 22);
  EXPECT_TRUE(says(scores.err, "24 pairs"));
  work_.write("lines.txt", "question 1\n");
  EXPECT_EQ(run({"score", "--reward", "--model", at("out"), "--file", at("lines.txt")}).code, 0);
  expect_failure(run({"score", "--reward", "--model", at("out"), "--file", at("lines.txt"), "--template", "default"}), 2, "--template");
  expect_failure(run({"generate", "--model", at("out"), "--prompt", "question 1", "--max-new-tokens", "2"}), 2, "attune score --reward");
  expect_failure(run({"score", "--reward", "--model", at("base"), "--file", at("pairs.jsonl")}), 2, "language model");
  EXPECT_TRUE(says(run({"train", "model_name_or_path=" + at("out"), "dataset=" + at("chat.jsonl"), "template=default", "output_dir=" + at("x")}).err, "scores sequences"));
  // A reward model goes on where it was.
  const Result more = run({"train", "model_name_or_path=" + at("out"), "stage=rm", "dataset=" + at("pairs.jsonl"), "template=default", "max_steps=1", "logging_steps=1",
                           "learning_rate=0", "val_size=6", "output_dir=" + at("more")});
  ASSERT_EQ(more.code, 0) << more.err;
  EXPECT_NEAR(result("more/eval_results.json")["eval_loss"].get<double>(), e["eval_loss"].get<double>(), 0.05);
}

TEST_F(Preferences, ARewardModelCanBeAnAdapter) {
  const Result r = train("rm", "pairs.jsonl", {"max_steps=16", "finetuning_type=lora"});
  expect_failure(r, 2, "duplicate");
  const Result lora = run({"train", "model_name_or_path=" + at("base"), "stage=rm", "finetuning_type=lora", "dataset=" + at("pairs.jsonl"), "template=default", "cutoff_len=96",
                           "per_device_train_batch_size=4", "max_steps=16", "learning_rate=1e-2", "output_dir=" + at("adapter")});
  ASSERT_EQ(lora.code, 0) << lora.err;
  EXPECT_EQ(result("adapter/adapter_config.json")["task_type"], "SEQ_CLS");
  const Result scores = run({"score", "--reward", "--model", at("base"), "--adapter", at("adapter"), "--file", at("pairs.jsonl"), "--template", "default"});
  ASSERT_EQ(scores.code, 0) << scores.err;
  EXPECT_TRUE(says(scores.err, "accuracy"));
  // Merged it is a reward model of its own, with the same rewards.
  const Result merged = run({"merge", "--model", at("base"), "--adapter", at("adapter"), "--out", at("merged")});
  ASSERT_EQ(merged.code, 0) << merged.err;
  EXPECT_TRUE(says(merged.err, "largest difference of a score")) << merged.err;
  EXPECT_EQ(result("merged/config.json")["architectures"][0], "LlamaForSequenceClassification");
  EXPECT_EQ(result("merged/config.json")["id2label"].size(), 1u);
  const Result again = run({"score", "--reward", "--model", at("merged"), "--file", at("pairs.jsonl"), "--template", "default"});
  ASSERT_EQ(again.code, 0) << again.err;
  const auto one = lines_of(scores.out), other = lines_of(again.out);
  ASSERT_EQ(one.size(), other.size());
  for (size_t i = 0; i < one.size(); ++i)
    for (const char* side : {"chosen", "rejected"})
      EXPECT_NEAR(parse_json(one[i], "line")[side].get<double>(), parse_json(other[i], "line")[side].get<double>(), 1e-5);
}

// The adapter's own template, not the base's, is the one that its rewards belong to.
TEST_F(Preferences, ARewardAdapterIsAskedInItsOwnTemplate) {
  ASSERT_EQ(run({"train", "model_name_or_path=" + at("base"), "stage=rm", "finetuning_type=lora", "dataset=" + at("pairs.jsonl"), "template=default", "cutoff_len=96",
                 "per_device_train_batch_size=4", "max_steps=4", "learning_rate=1e-2", "output_dir=" + at("adapter")}).code, 0);
  work_.write("base/chat_template.jinja", "{% for m in messages %}{{ m['role'] + '> ' + m['content'] + '\n' }}{% endfor %}");
  const std::vector<std::string> ask{"score", "--reward", "--model", at("base"), "--adapter", at("adapter"), "--file", at("pairs.jsonl")};
  auto named = ask;
  named.insert(named.end(), {"--template", "default"});
  const Result own = run(ask), by_name = run(named);
  ASSERT_EQ(own.code, 0) << own.err;
  EXPECT_EQ(own.out, by_name.out);
}

// Their validation figures are those of the run; there is nothing to generate and compare.
TEST_F(Preferences, EvaluationOfPairsIsRefusedWithWhereTheFiguresAre) {
  for (const auto& [stage, data] : {std::pair{"dpo", "pairs.jsonl"}, {"rm", "pairs.jsonl"}, {"kto", "judged.jsonl"}}) {
    const Result r = run({"eval", "model_name_or_path=" + at("base"), std::string("stage=") + stage, "eval_dataset=" + at(data), "template=default", "output_dir=" + at("out")});
    expect_failure(r, 2, "eval_results.json");
    EXPECT_TRUE(says(r.err, std::string("stage ") + stage)) << r.err;
  }
  // Of the tuned model questions can be asked.
  EXPECT_EQ(run({"eval", "model_name_or_path=" + at("base"), "stage=dpo", "eval_dataset=" + at("pairs.jsonl"), "template=default", "output_dir=" + at("out"),
                 "--file", at("chat.jsonl"), "--max-new-tokens", "2", "--json"}).code, 0);
}

class Pipelines : public Preferences {
 protected:
  void write_pipeline(const std::string& more = "") {
    work_.write("pipe.yaml", "model_name_or_path: " + at("base") + "\ntemplate: default\ncutoff_len: 96\nper_device_train_batch_size: 4\nlearning_rate: 3e-3\n" +
                                 "logging_steps: 5\nsave_steps: 3\nsave_total_limit: 2\nval_size: 4\nfinetuning_type: full\n" + more + "stages:\n  - stage: pt\n    dataset: " + at("text.jsonl") +
                                 "\n    max_steps: 12\n  - stage: sft\n    dataset: " + at("chat.jsonl") + "\n    max_steps: 12\n    finetuning_type: lora\n    lora_rank: 4\n" +
                                 "  - stage: dpo\n    dataset: " + at("pairs.jsonl") + "\n    max_steps: 12\n    pref_beta: 0.2\n");
  }
  Result go(const std::string& output, const std::vector<std::string>& more = {}, double kill_after = 0) {
    std::vector<std::string> all{"train", at("pipe.yaml"), "output_dir=" + at(output)};
    all.insert(all.end(), more.begin(), more.end());
    return run(all, kill_after);
  }
};

TEST_F(Pipelines, EachStageBeginsWithTheResultOfTheOneBefore) {
  write_pipeline();
  const Result r = go("p", {"--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json p = result("p/pipeline.json");
  ASSERT_EQ(p["stages"].size(), 3u);
  EXPECT_EQ(p["stages"][1]["base"], at("p") + "/1-pt");
  EXPECT_EQ(p["stages"][2]["base"], at("p") + "/2-sft/merged");
  for (const Json& s : p["stages"]) {
    EXPECT_EQ(s["status"], "done");
    EXPECT_TRUE(s["before"].contains("eval_loss") && s["after"].contains("eval_loss")) << s.dump();
  }
  EXPECT_LT(p["stages"][0]["after"]["eval_loss"].get<double>(), p["stages"][0]["before"]["eval_loss"].get<double>());
  EXPECT_NEAR(p["stages"][2]["before"]["eval_loss"].get<double>(), std::log(2.0), 1e-3);
  EXPECT_TRUE(says(r.err, "3-dpo"));
  EXPECT_TRUE(fs::exists(work_ / "p/3-dpo/model.safetensors"));
  expect_failure(go("p"), 2, "already holds a pipeline");
  // Nothing is left to do.
  const Result again = go("p", {"resume_from_checkpoint=true"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_FALSE(says(again.err, "step "));
  const std::string state = read_file(work_ / "p/pipeline.json");
  for (const char* damaged : {"[]", "{}", R"({"stages":[1,2,3]})", R"({"stages":[{},{},{}]})", R"({"stages":3})"}) {
    work_.write("p/pipeline.json", damaged);
    expect_failure(go("p", {"resume_from_checkpoint=true"}), 1, "is not what a pipeline wrote");
  }
  work_.write("p/pipeline.json", state);
  write_pipeline("weight_decay: 0.1\n");
  expect_failure(go("p", {"resume_from_checkpoint=true"}), 2, "stage 1-pt: its settings are not those it began with");
}

TEST_F(Pipelines, KilledInAnyStageItEndsWithTheSameBits) {
  write_pipeline();
  const Result whole = go("whole");
  ASSERT_EQ(whole.code, 0) << whole.err;
  std::mt19937 random(std::random_device{}());
  int kills = 0;
  for (int i = 0; i < 30 && !fs::exists(work_ / "killed/3-dpo/train_results.json"); ++i) {
    const double moment = whole.seconds * (0.2 + 0.4 * static_cast<double>(random() % 1000) / 1000);
    const Result r = go("killed", {"resume_from_checkpoint=true"}, moment);
    kills += r.code != 0;
    if (r.code != 0) {
      EXPECT_EQ(r.code, -SIGKILL) << r.err;
    }
  }
  const Result last = go("killed", {"resume_from_checkpoint=true"});
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_GE(kills, 1);
  EXPECT_TRUE(read_file(work_ / "killed/3-dpo/model.safetensors") == read_file(work_ / "whole/3-dpo/model.safetensors"));
}

// What the next stage begins with is what this one has made: on the base as it learnt beside it, with the adapters below its own.
TEST_F(Pipelines, AdaptersOnAQuantisedBaseOrOnOthersAreMergedWhole) {
  const auto pipeline = [&](const std::string& first) {
    work_.write("pipe.yaml", "model_name_or_path: " + at("base") + "\ntemplate: default\ncutoff_len: 96\nper_device_train_batch_size: 4\nfinetuning_type: lora\nlora_rank: 4\nmax_steps: 3\n" +
                                 "stages:\n  - stage: sft\n    dataset: " + at("chat.jsonl") + "\n" + first + "  - stage: dpo\n    dataset: " + at("pairs.jsonl") + "\n    val_size: 4\n");
  };
  const auto nll = [&](const std::vector<std::string>& model) {
    work_.write("lines.txt", "The cat was happy and saw a tree.\n");
    std::vector<std::string> all{"score", "--file", at("lines.txt")};
    all.insert(all.end(), model.begin(), model.end());
    const Result r = run(all);
    EXPECT_EQ(r.code, 0) << r.err;
    return parse_json(lines_of(r.out).at(0), "score")["mean_nll"].get<double>();
  };
  pipeline("    quantization_bit: 4\n    learning_rate: 1e-2\n");
  const Result r = go("q");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NEAR(nll({"--model", at("q/1-sft/merged")}), nll({"--model", at("base"), "--adapter", at("q/1-sft"), "--quantization", "nf4-double"}), 1e-3);
  pipeline("    adapter_name_or_path: " + at("q/1-sft") + "\n    create_new_adapter: true\n    learning_rate: 0\n");
  const Result on_top = go("t");
  ASSERT_EQ(on_top.code, 0) << on_top.err;
  const double expected = nll({"--model", at("base"), "--adapter", at("q/1-sft")});
  EXPECT_NEAR(nll({"--model", at("t/1-sft/merged")}), expected, 1e-3);
  EXPECT_GT(std::abs(expected - nll({"--model", at("base")})), 2e-3);
}

TEST_F(Pipelines, EveryStageIsLookedAtBeforeTheFirstBegins) {
  write_pipeline();
  std::string text = read_file(work_ / "pipe.yaml");
  text.replace(text.find("pairs.jsonl"), 11, "chat.jsonl");
  work_.write("pipe.yaml", text);
  const Result r = go("p");
  EXPECT_NE(r.code, 0);
  EXPECT_FALSE(fs::exists(work_ / "p/1-pt"));
  for (const std::string late : {"metric_for_best_model: accuracy", "lr_scheduler_kwargs: {nonsense: 1}"}) {
    write_pipeline();
    text = read_file(work_ / "pipe.yaml") + "    " + late + "\n";
    work_.write("pipe.yaml", text);
    expect_failure(go("p"), 2, late.substr(0, late.find(':')));
    EXPECT_FALSE(fs::exists(work_ / "p/1-pt")) << late;
  }
  expect_failure(run({"plan", "model_name_or_path=" + at("base"), "stage=dpo", "dataset=" + at("pairs.jsonl"), "template=default", "lr_scheduler_kwargs=nonsense=1"}), 2,
                 "lr_scheduler_kwargs");
  write_pipeline();
  work_.write("p/3-dpo/trainer_log.jsonl", "");
  expect_failure(go("p"), 2, "already holds a run");
  EXPECT_FALSE(fs::exists(work_ / "p/1-pt"));
  work_.write("pipe.yaml", "stages:\n  - stage: sft\n    outptu_dir: x\n");
  expect_failure(go("p"), 2, "outptu_dir");
  work_.write("pipe.yaml", "stages: sft\n");
  expect_failure(go("p"), 2, "must be a list");
  expect_failure(run({"eval", at("pipe.yaml")}), 2, "stages");
}

}  // namespace
}  // namespace attune
