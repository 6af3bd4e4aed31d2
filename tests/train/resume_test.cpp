// A run that was killed continues to the same bits; what cannot be continued is refused or skipped, with the reason.
#include <map>
#include <set>

#include "plan/planner.h"
#include "support/workspace.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

namespace attune::train {
namespace {

using namespace test;
using List = std::vector<std::string>;

// With attention dropout: what is random must repeat too.
fs::path model(const Workspace& work) {
  Json config = small_llama_config();
  config["attention_dropout"] = 0.1;
  config["hidden_size"] = 16;
  config["intermediate_size"] = 32;
  return make_small_model(work / "model", config);
}

// Runs quietly; returns what was said on stderr.
std::string train(List settings) {
  ::testing::internal::CaptureStderr();
  try {
    RunSetup setup = prepare(load_config("", settings));
    run_training(setup, plan::activation_bytes(setup));
  } catch (...) {
    ::testing::internal::GetCapturedStderr();
    throw;
  }
  return ::testing::internal::GetCapturedStderr();
}

List steps_logged(const fs::path& output) {
  List out;
  const std::string text = read_file(output / "trainer_log.jsonl");
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const Json line = parse_json(text.substr(at, end - at), "trainer_log.jsonl");
    out.push_back(line["current_steps"].dump() + (line.contains("eval_loss") ? " eval" : ""));
    at = end + 1;
  }
  return out;
}

// What a run that was killed behind update `step` has left: its log may be ahead of its newest checkpoint.
void undo_after(const fs::path& output, int64_t step) {
  std::vector<fs::path> going;
  for (const auto& entry : fs::directory_iterator(output)) {
    const std::string name = entry.path().filename().string();
    const bool later = name.starts_with("checkpoint-") && std::stoll(name.substr(11)) > step;
    if (later || name.ends_with(".safetensors") || name == "train_results.json" || name == "trainer_state.json" || name == "config.json")
      going.push_back(entry.path());
  }
  for (const auto& path : going) fs::remove_all(path);
}

Json losses(const fs::path& output) {
  Json out = Json::array();
  const Json state = read_json(output / "trainer_state.json");
  for (const Json& e : state["log_history"])
    if (e.contains("loss")) out.push_back(e);
    else if (e.contains("eval_loss")) out.push_back({e["step"], e["eval_loss"]});
  return out;
}

class Resume : public ::testing::TestWithParam<List> {};

TEST_P(Resume, GivesTheSameBitsAsOneGo) {
  const Workspace work;
  work.write("data.jsonl", small_alpaca(30));
  List settings{"model_name_or_path=" + model(work).string(), "dataset=" + (work / "data.jsonl").string(), "template=default", "cutoff_len=96",
                "max_steps=9", "save_steps=2", "logging_steps=3", "learning_rate=1e-2", "lr_scheduler_type=cosine", "warmup_steps=2",
                "val_size=4", "eval_steps=4", "weight_decay=0.1", "output_dir=" + (work / "out").string()};
  settings.insert(settings.end(), GetParam().begin(), GetParam().end());
  train(settings);
  const std::string whole = read_file(work / "out/model.safetensors");
  const Json history = losses(work / "out");
  const List steps = steps_logged(work / "out");
  EXPECT_EQ(steps, (List{"3", "4 eval", "6", "8 eval", "9", "9 eval"}));
  settings.push_back("resume_from_checkpoint=true");
  for (int64_t killed_after : {4, 2}) {
    undo_after(work / "out", killed_after);
    const std::string said = train(settings);
    EXPECT_NE(said.find(fmt::format("checkpoint-{} at update {} of 9", killed_after, killed_after)), std::string::npos) << said;
    EXPECT_TRUE(read_file(work / "out/model.safetensors") == whole) << killed_after;
    EXPECT_EQ(losses(work / "out"), history) << killed_after;
    EXPECT_EQ(steps_logged(work / "out"), steps) << killed_after;
  }
  // Killed before the first checkpoint: from the beginning, and the old log does not stay.
  undo_after(work / "out", 0);
  EXPECT_NE(train(settings).find("starting from the beginning"), std::string::npos);
  EXPECT_TRUE(read_file(work / "out/model.safetensors") == whole);
  EXPECT_EQ(steps_logged(work / "out"), steps);
  // A run that is complete stays what it is.
  train(settings);
  EXPECT_TRUE(read_file(work / "out/model.safetensors") == whole);
}

INSTANTIATE_TEST_SUITE_P(Ways, Resume,
                         ::testing::Values(List{"per_device_train_batch_size=4"},
                                           List{"per_device_train_batch_size=2", "gradient_accumulation_steps=2", "packing=true"},
                                           List{"per_device_train_batch_size=4", "bf16=true"},
                                           List{"per_device_train_batch_size=1", "gradient_accumulation_steps=3", "packing=true", "bf16=true", "gradient_checkpointing=block"},
                                           List{"per_device_train_batch_size=4", "optim=sgd"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true", "save_dtype=float32", "optim=lion"},
                                           List{"per_device_train_batch_size=4", "fp16=true"},
                                           List{"per_device_train_batch_size=4", "optim=adamw_torch", "optim_args=amsgrad=true", "bf16=true", "l2_to_base=0.1"},
                                           List{"per_device_train_batch_size=4", "optim=adafactor", "optim_args=scale_parameter=true"},
                                           List{"per_device_train_batch_size=4", "optim=sgd", "optim_args=momentum=0.9,nesterov=true", "group_by_length=true"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true", "optimizer_in_backward=true", "max_grad_norm=0.5"},
                                           List{"per_device_train_batch_size=4", "bf16=true", "use_badam=true", "badam_switch_interval=2", "save_dtype=float32"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true", "optim=adamw_8bit", "optimizer_in_backward=true"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true", "optim=apollo_adamw", "optim_args=rank=2,update_proj_gap=3"},
                                           List{"per_device_train_batch_size=4", "optim=galore_adamw_8bit", "optim_args=rank=4,update_proj_gap=3"},
                                           List{"per_device_train_batch_size=4", "bf16=true", "optim=muon"},
                                           List{"per_device_train_batch_size=4", "pure_bf16=true", "optim=adalomo"},
                                           List{"per_device_train_batch_size=4", "attention_dropout=0.1", "hidden_dropout=0.1", "embedding_dropout=0.1",
                                                "neftune_noise_alpha=5", "label_smoothing_factor=0.1", "dataloader_drop_last=true"},
                                           List{"per_device_train_batch_size=4", "bf16=true", "finetuning_type=freeze", "freeze_trainable_layers=1",
                                                "learning_rate_groups=mlp=0.1x", "load_best_model_at_end=true"}));

// One finished run whose checkpoints the tests below take apart.
class Checkpoints : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new Workspace;
    work_->write("data.jsonl", small_alpaca(24));
    model(*work_);
    train(settings("whole"));
  }
  static void TearDownTestSuite() { delete work_; }
  static List settings(const std::string& output, List more = {}) {
    List s{"model_name_or_path=" + (*work_ / "model").string(), "dataset=" + (*work_ / "data.jsonl").string(), "template=default", "cutoff_len=96",
           "per_device_train_batch_size=4", "max_steps=6", "save_steps=2", "logging_steps=1", "learning_rate=1e-2", "bf16=true",
           "output_dir=" + (*work_ / output).string()};
    s.insert(s.end(), more.begin(), more.end());
    return s;
  }
  // A copy of the run to be damaged, as if killed after `step`.
  fs::path copy(const std::string& name, int64_t step = 4) {
    fs::copy(*work_ / "whole", *work_ / name, fs::copy_options::recursive);
    undo_after(*work_ / name, step);
    return *work_ / name;
  }
  static Workspace* work_;
};
Workspace* Checkpoints::work_ = nullptr;

void flip(const fs::path& file, size_t at) {
  std::string bytes = read_file(file);
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  write_file(file, bytes);
}

TEST_F(Checkpoints, ADamagedOneIsSkippedForTheOneBefore) {
  const fs::path output = copy("damaged"), newest = output / "checkpoint-4";
  ASSERT_EQ(newest_checkpoint(output), newest);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(newest)) files.push_back(entry.path());
  ASSERT_GE(files.size(), 7u);
  const auto expect_skipped = [&](const fs::path& file, const char* how) {
    ::testing::internal::CaptureStderr();
    const auto found = newest_checkpoint(output);
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(found, output / "checkpoint-2") << file << how;
    EXPECT_NE(said.find("checkpoint-4"), std::string::npos) << said;
    EXPECT_NE(said.find("warning"), std::string::npos) << said;
  };
  for (const fs::path& file : files) {
    const std::string intact = read_file(file);
    for (size_t at : {size_t{0}, intact.size() / 2, intact.size() - 2}) {
      // The manifest's own last bytes are brackets and white space.
      flip(file, at);
      expect_skipped(file, " flipped");
      write_file(file, intact);
    }
    write_file(file, intact.substr(0, intact.size() / 2));
    expect_skipped(file, " cut");
    fs::remove(file);
    expect_skipped(file, " missing");
    write_file(file, intact);
  }
  ASSERT_EQ(newest_checkpoint(output), newest);
  // Through the whole program: the damaged one is skipped, and the run ends where it would have.
  flip(newest / "model.safetensors", 5000);
  auto with = settings("damaged", {"resume_from_checkpoint=true"});
  EXPECT_NE(train(with).find("not intact"), std::string::npos);
  EXPECT_TRUE(read_file(output / "model.safetensors") == read_file(*work_ / "whole/model.safetensors"));
  // Asked for by name, it is refused.
  flip(output / "checkpoint-2/model.safetensors", 5000);
  with.back() = "resume_from_checkpoint=" + (output / "checkpoint-2").string();
  EXPECT_NE(error_of([&] { train(with); }).find("not intact"), std::string::npos);
}

TEST_F(Checkpoints, ManifestsDoNotLeadOutOfTheDirectory) {
  const fs::path output = copy("escape");
  Json manifest = read_json(output / "checkpoint-4/attune_checkpoint.json");
  manifest["files"]["../../model/config.json"] = {{"bytes", 1}, {"xxh3_64", "0"}};
  write_file(output / "checkpoint-4/attune_checkpoint.json", manifest.dump());
  EXPECT_NE(verify_checkpoint(output / "checkpoint-4").find("outside"), std::string::npos);
  for (const char* bad : {"[]", "{}", "{\"files\":[]}", "{\"files\":{\"config.json\":5}}", "{\"files\":{\"config.json\":{\"bytes\":\"x\"}}}", "nonsense"}) {
    write_file(output / "checkpoint-4/attune_checkpoint.json", bad);
    EXPECT_NE(verify_checkpoint(output / "checkpoint-4"), "") << bad;
  }
}

TEST_F(Checkpoints, OtherDataOrOtherBatchesAreRefusedByName) {
  copy("changed");
  const auto refusal = [&](List more) {
    more.push_back("resume_from_checkpoint=true");
    List all = settings("changed");
    for (const std::string& setting : more) {
      const std::string key = setting.substr(0, setting.find('=') + 1);
      std::erase_if(all, [&](const std::string& s) { return s.starts_with(key); });
      all.push_back(setting);
    }
    return error_of([&] { train(all); });
  };
  for (const auto& [setting, name] : std::map<std::string, std::string>{
           {"per_device_train_batch_size=2", "per_device_train_batch_size"}, {"gradient_accumulation_steps=2", "gradient_accumulation_steps"},
           {"packing=true", "packing"}, {"seed=7", "seed"}, {"data_seed=7", "data_seed"}, {"optim=sgd", "optim"},
           {"cutoff_len=50", "train_data"}, {"max_samples=20", "train_data"}, {"train_on_prompt=true", "train_data"},
           {"max_steps=3", "update 4"}}) {
    const std::string message = refusal({setting});
    EXPECT_NE(message.find(name), std::string::npos) << setting << ": " << message;
    EXPECT_NE(message.find("checkpoint-4"), std::string::npos) << message;
  }
  std::string data = small_alpaca(24);
  data[data.find("happy")] = 'H';
  work_->write("other.jsonl", data);
  EXPECT_NE(refusal({"dataset=" + (*work_ / "other.jsonl").string()}).find("train_data"), std::string::npos);
  // Refusing loses nothing.
  EXPECT_EQ(verify_checkpoint(*work_ / "changed/checkpoint-4"), "");
  EXPECT_EQ(verify_checkpoint(*work_ / "changed/checkpoint-2"), "");
}

TEST_F(Checkpoints, AnotherModelIsRefused) {
  const fs::path output = copy("othermodel");
  Json config = small_llama_config();
  make_small_model(*work_ / "model2", config);
  List s = settings("othermodel", {"resume_from_checkpoint=true"});
  s[0] = "model_name_or_path=" + (*work_ / "model2").string();
  // Told by the number of parameters, where it differs, before any tensor is looked at.
  EXPECT_NE(error_of([&] { train(s); }).find("trainable_parameters"), std::string::npos);
}

TEST_F(Checkpoints, AFinishedDirectoryIsNotOverwrittenUnasked) {
  EXPECT_NE(error_of([&] { train(settings("whole")); }).find("already holds a run"), std::string::npos);
  List onto_base = settings("model");
  EXPECT_NE(error_of([&] { train(onto_base); }).find("base model itself"), std::string::npos);
  const fs::path foreign = *work_ / "foreign";
  fs::create_directories(foreign);
  fs::copy_file(*work_ / "model/model.safetensors", foreign / "model.safetensors");
  EXPECT_NE(error_of([&] { train(settings("foreign")); }).find("would be overwritten"), std::string::npos);
}

TEST_F(Checkpoints, ASecondRunIsKeptOutOfTheDirectory) {
  fs::create_directories(*work_ / "locked");
  const DirectoryLock lock(*work_ / "locked", "output_dir");
  EXPECT_NE(error_of([&] { train(settings("locked")); }).find("another run is writing"), std::string::npos);
}

TEST_F(Checkpoints, OverwritingClearsOnlyWhatARunLeft) {
  work_->write("mine/checkpoint-7/notes.txt", "mine");
  work_->write("mine/runs/notes.txt", "mine");
  train(settings("mine"));
  train(settings("mine", {"overwrite_output_dir=true"}));
  EXPECT_EQ(read_file(*work_ / "mine/checkpoint-7/notes.txt"), "mine");
  EXPECT_EQ(read_file(*work_ / "mine/runs/notes.txt"), "mine");
}

TEST_F(Checkpoints, OnlyTheNewestAreKeptAndHalvesAreRemoved) {
  work_->write("limited/.tmp-checkpoint-9/model.safetensors", "half");
  work_->write("limited/.old-checkpoint-8/model.safetensors", "going");
  work_->write("limited/notes.txt", "mine");
  for (int limit : {2, 1}) {
    List s = settings("limited", {"save_total_limit=" + std::to_string(limit), "overwrite_output_dir=true"});
    s[6] = "save_steps=1";
    ASSERT_TRUE(s[5].starts_with("max_steps"));
    train(s);
    std::set<std::string> left;
    for (const auto& entry : fs::directory_iterator(*work_ / "limited"))
      if (const std::string name = entry.path().filename().string(); name.find("checkpoint-") != std::string::npos) left.insert(name);
    EXPECT_EQ(left, limit == 2 ? (std::set<std::string>{"checkpoint-5", "checkpoint-6"}) : (std::set<std::string>{"checkpoint-6"}));
  }
  EXPECT_EQ(read_file(*work_ / "limited/notes.txt"), "mine");
}

TEST_F(Checkpoints, HoldAModelThatIsComplete) {
  formats::ModelDirectory directory(*work_ / "whole/checkpoint-4");
  models::Decoder decoder(models::parse_config(directory.config(), "config.json"));
  decoder.parameters().allocate_weights(Place::host(), DType::f32);
  models::load_weights(decoder, directory);
  EXPECT_NO_THROW(text::Tokenizer::load(*work_ / "whole/checkpoint-4"));
}

TEST_F(Checkpoints, TrainerStateHasTheKeysOfTransformersAndNoOther) {
  const std::set<std::string> wanted{"best_global_step", "best_metric", "best_model_checkpoint", "epoch", "eval_steps", "global_step",
                                     "is_hyper_param_search", "is_local_process_zero", "is_world_process_zero", "log_history", "logging_steps",
                                     "max_steps", "num_input_tokens_seen", "num_train_epochs", "save_steps", "stateful_callbacks", "total_flos",
                                     "train_batch_size", "trial_name", "trial_params"};
  for (const char* where : {"whole", "whole/checkpoint-4"}) {
    const Json state = read_json(*work_ / where / "trainer_state.json");
    std::set<std::string> keys;
    for (const auto& [key, value] : state.items()) keys.insert(key);
    EXPECT_EQ(keys, wanted) << where;
    EXPECT_TRUE(state["num_train_epochs"].is_number_integer());
    EXPECT_TRUE(state["stateful_callbacks"].is_object());
    for (size_t i = 0; i < 4; ++i) {
      std::set<std::string> fields;
      for (const auto& [key, value] : state["log_history"][i].items()) fields.insert(key);
      EXPECT_EQ(fields, (std::set<std::string>{"epoch", "grad_norm", "learning_rate", "loss", "mean_token_accuracy", "step"}));
    }
  }
  EXPECT_EQ(read_json(*work_ / "whole/checkpoint-4/trainer_state.json")["global_step"], 4);
  EXPECT_EQ(read_json(*work_ / "whole/trainer_state.json")["global_step"], 6);
}

TEST_F(Checkpoints, WhatARunLeavesBehindIsComplete) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja", "trainer_state.json", "trainer_log.jsonl",
                           "train_results.json", "all_results.json", "training_loss.svg", "attune_config.yaml", "attune_manifest.json", "runs"})
    EXPECT_TRUE(fs::exists(*work_ / "whole" / name)) << name;
  const Json results = read_json(*work_ / "whole/train_results.json");
  for (const char* key : {"peak_memory_bytes", "tokens_per_second", "duration_seconds", "train_loss"}) EXPECT_GT(results[key].get<double>(), 0) << key;
  for (const auto& entry : fs::directory_iterator(*work_ / "whole")) EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
  // The configuration that a run wrote starts the same run.
  EXPECT_EQ(load_config(*work_ / "whole/attune_config.yaml", {}).resolved_yaml(), read_file(*work_ / "whole/attune_config.yaml"));
}

// A full disk is not filled further by what could not be finished.
TEST(Publish, AFailureLeavesTheOldDirectoryAndNothingElse) {
  Workspace work;
  publish_directory(work / "state", [](const fs::path& d) { write_file(d / "a", "old"); });
  EXPECT_THROW(publish_directory(work / "state", [](const fs::path& d) {
    write_file(d / "a", "new");
    fail("no space left");
  }), Error);
  EXPECT_EQ(read_file(work / "state/a"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(work.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace attune::train
