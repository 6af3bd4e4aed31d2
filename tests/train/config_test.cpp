// What a configuration may say, and how it is told when it says something else.
#include "train/config.h"

#include "support/workspace.h"
#include "train/optimizer_options.h"

namespace attune::train {
namespace {

using test::error_of;
using test::Workspace;
using List = std::vector<std::string>;

class ConfigFile : public ::testing::Test {
 protected:
  // What every configuration needs stands behind `yaml` unless it is there.
  Config load(const std::string& yaml, List overrides = {}) {
    std::string all = yaml;
    if (yaml.find("model_name_or_path") == std::string::npos) overrides.push_back("model_name_or_path=m");
    if (yaml.find("dataset: ") != 0 && yaml.find("\ndataset:") == std::string::npos && yaml.find("dataset:\n") != 0 && std::none_of(overrides.begin(), overrides.end(), [](const auto& o) { return o.starts_with("dataset="); }))
      overrides.push_back("dataset=d.jsonl");
    return load_config(work_.write("run.yaml", all), overrides);
  }
  std::string refusal(const std::string& yaml, const List& overrides = {}) {
    return error_of([&] { load(yaml, overrides); });
  }
  // Of a file's line.
  void expect_at(int line, const std::string& message) {
    EXPECT_NE(message.find(fmt::format("run.yaml:{}: ", line)), std::string::npos) << message;
  }
  Workspace work_;
};

bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

TEST_F(ConfigFile, UnknownKeysNameTheLineAndTheNearestKey) {
  for (const auto& [wrong, right] : std::map<std::string, std::string>{
           {"learnig_rate", "learning_rate"}, {"num_train_epoch", "num_train_epochs"}, {"cutof_len", "cutoff_len"},
           {"model_name_or_paht", "model_name_or_path"}, {"per_device_train_batchsize", "per_device_train_batch_size"}}) {
    const std::string message = refusal("stage: sft\n" + wrong + ": 1\n");
    EXPECT_TRUE(says(message, "unknown key \"" + wrong + "\"")) << message;
    EXPECT_TRUE(says(message, "did you mean \"" + right + "\"")) << message;
    expect_at(2, message);
    EXPECT_TRUE(says(refusal("{}", {wrong + "=1"}), "did you mean \"" + right + "\""));
  }
  EXPECT_TRUE(says(refusal("{}", {"zzzzqqq=1"}), "unknown key"));
  EXPECT_FALSE(says(refusal("{}", {"zzzzqqq=1"}), "did you mean"));
  // Also where it has no value.
  EXPECT_TRUE(says(refusal("stage: sft\nlearnig_rate:\n"), "unknown key"));
}

TEST_F(ConfigFile, DuplicatesAreRefused) {
  const std::string message = refusal("seed: 1\nstage: sft\nseed: 2\n");
  EXPECT_TRUE(says(message, "duplicate key seed")) << message;
  EXPECT_TRUE(says(message, "run.yaml:3")) << message;
  EXPECT_TRUE(says(message, "run.yaml:1")) << message;
  EXPECT_TRUE(says(refusal("{}", {"seed=1", "seed=2"}), "duplicate key seed"));
  for (const char* twice : {"rank_pattern=q_proj=4,k_proj=8,q_proj=16", R"(rank_pattern={"q_proj": 4, "q_proj": 16})"})
    EXPECT_TRUE(says(refusal("finetuning_type: lora\n", {twice}), "q_proj")) << twice;
  // Two names of one key.
  EXPECT_TRUE(says(refusal("eval_strategy: steps\nevaluation_strategy: no\n"), "duplicate"));
  EXPECT_TRUE(says(refusal("{}", {"eval_strategy=steps", "evaluation_strategy=epoch"}), "duplicate"));
}

TEST_F(ConfigFile, WrongTypesAndValuesSayWhatIsExpected) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"learning_rate: fast", "must be a number"},        {"learning_rate: -1", "expected 0 to"},
      {"learning_rate: nan", "expected 0 to"},            {"learning_rate: inf", "expected 0 to"},
      {"learning_rate: 1e-5x", "must be a number"},       {"learning_rate: \"\"", "must be a number"},
      {"learning_rate: [1, 2]", "single value"},          {"learning_rate: {a: 1}", "not a map"},
      {"max_steps: 1.5", "must be a whole number"},       {"max_steps: -2", "expected -1 to"},
      {"per_device_train_batch_size: 0", "expected 1 to"}, {"per_device_train_batch_size: 99999999999", "expected 1 to"},
      {"cutoff_len: 1", "expected 2 to"},                 {"seed: -1", "expected 0 to"},
      {"seed: 1e400", "must be a number"},                {"packing: maybe", "must be true or false"},
      {"packing: 1", "must be true or false"},            {"stage: ppo", "known are sft, pt"},
      {"stage: stf", "did you mean \"sft\""},             {"lr_scheduler_type: cosin", "did you mean \"cosine\""},
      {"optim: lionfish", "not supported"},                   {"finetuning_type: oft", "not supported"},
      {"gradient_checkpointing: some", "must be true or false"}, {"save_strategy: daily", "known are"},
      {"do_train: false", "nothing to do"},               {"stages: [a]", "keys and values"},
      {"fp16: true\nbf16: true", "exclude each other"},                {"output_dir: \"\"", "output_dir is empty"},
      {"adam_beta1: 1.5", "expected 0 to 0.9999999"},             {"num_train_epochs: 0", "nothing would be trained"},
      {"dataset: [[a]]", "plain values"},
      {"lr_scheduler_kwargs: {a: [1]}", "plain values"}, {"lr_scheduler_kwargs: {a: 1, a: 2}", "stands twice"},
      {"optim_args: amsgrad", "name=value"},              {"save_dtype: int8", "known are"},
      {"early_stopping_patience: 3", "needs validation data"}, {"load_best_model_at_end: true", "needs validation data"},
      {"cross_validation: 1", "nothing to train on"},     {"cross_validation: 3\nval_size: 0.1", "leave out val_size"},
      {"group_by_length: true\npacking: true", "choose one"}, {"label_smoothing_factor: 1", "expected 0 to"},
      {"group_by_length: true\ndisable_shuffling: true", "choose one"}, {"use_dft_loss: true\nlabel_smoothing_factor: 0.1", "choose one"},
      {"adapter_name_or_path: a", "finetuning_type: lora"}, {"create_new_adapter: true\nfinetuning_type: lora", "adapter_name_or_path"},
      {"pissa_convert: false\nfinetuning_type: lora", "plain LoRA"},
      {"layers_to_transform: [0]\nfinetuning_type: lora\nlora_target: '.*q_proj'", "regular expression"}};
  for (const auto& [yaml, part] : cases) {
    const std::string message = refusal("# comment\n" + yaml + "\n");
    EXPECT_TRUE(says(message, part)) << yaml << " → " << message;
    EXPECT_TRUE(says(message, yaml.substr(0, yaml.find(':')))) << yaml << " → " << message;
  }
  expect_at(2, refusal("# comment\nlearning_rate: fast\n"));
  EXPECT_TRUE(says(refusal("{}", {"learning_rate=fast"}), "command line"));
  EXPECT_TRUE(says(refusal("{}", {"no equals sign"}), "expected key=value"));
  EXPECT_TRUE(says(refusal("{}", {"=1"}), "expected key=value"));
  EXPECT_TRUE(says(refusal("val_size: 0.1\neval_dataset: e.jsonl\n"), "exclude each other"));
}

TEST_F(ConfigFile, WhatIsNotYamlIsRefused) {
  for (const std::string& bad : {std::string("a: [1"), std::string("\tx: 1"), std::string("a: b: c"), std::string("- a\n- b"), std::string("just text"),
                                 std::string("? [a]\n: b"), std::string("\x00\x01\xff", 3), std::string(5000, '['), "a: " + std::string(5000, '{')})
    EXPECT_NE(refusal(bad), "") << bad.substr(0, 20);
  EXPECT_TRUE(says(error_of([&] { load_config(work_ / "nowhere.yaml", {}); }), "nowhere.yaml"));
  EXPECT_NE(error_of([&] { load_config(work_.path(), {}); }), "");
}

TEST_F(ConfigFile, OverridesWinOverTheFile) {
  const Config c = load("learning_rate: 1.0e-4\nseed: 1\npacking: true\n", {"learning_rate=2e-3", "packing=false"});
  EXPECT_EQ(c.learning_rate, 2e-3);
  EXPECT_EQ(c.seed, 1);
  EXPECT_FALSE(c.packing);
  EXPECT_EQ(load("evaluation_strategy: epoch\n", {"eval_strategy=steps"}).eval_strategy, "steps");
}

TEST_F(ConfigFile, MayBeEmpty) {
  for (const char* empty : {"", "{}", "# nothing\n", "---\n", "null\n"}) {
    const Config c = load(empty);
    EXPECT_EQ(c.finetuning_type, "full");
    EXPECT_EQ(c.stage, "sft");
    EXPECT_EQ(c.model_name_or_path, "m");
  }
  EXPECT_EQ(load_config("", {"model_name_or_path=m", "dataset=d"}).dataset, (List{"d"}));
  EXPECT_TRUE(says(error_of([] { load_config("", {"dataset=d"}); }), "model_name_or_path is missing"));
  EXPECT_TRUE(says(error_of([] { load_config("", {"model_name_or_path=m"}); }), "dataset is missing"));
  EXPECT_TRUE(says(error_of([] { load_config("", {"model_name_or_path=m", "dataset= , "}); }), "dataset is missing"));
}

TEST_F(ConfigFile, DatasetsAsListOrWithCommas) {
  const List wanted{"identity", "alpaca_en_demo", "dir/x.jsonl"};
  EXPECT_EQ(load("dataset: identity, alpaca_en_demo ,dir/x.jsonl\n").dataset, wanted);
  EXPECT_EQ(load("dataset: [identity, alpaca_en_demo, dir/x.jsonl]\n").dataset, wanted);
  EXPECT_EQ(load("dataset:\n  - identity\n  - alpaca_en_demo\n  - dir/x.jsonl\n").dataset, wanted);
  EXPECT_EQ(load("{}", {"dataset=identity,alpaca_en_demo,dir/x.jsonl"}).dataset, wanted);
}

TEST_F(ConfigFile, ALlamaFactoryFileForFullTuningRunsUnchanged) {
  const Config c = load(R"(### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: full
deepspeed: examples/deepspeed/ds_z3_config.json  # choices: [ds_z0_config.json, ds_z2_config.json]

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/full/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 2
learning_rate: 1.0e-5
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
fp16: false
ddp_timeout: 180000000
resume_from_checkpoint: null
)");
  EXPECT_EQ(c.chat_template, "llama3");
  EXPECT_EQ(c.dataset, (List{"identity", "alpaca_en_demo"}));
  EXPECT_EQ(c.learning_rate, 1e-5);
  EXPECT_EQ(c.warmup(100), 10);
  EXPECT_EQ(c.compute(), DType::bf16);
  EXPECT_EQ(c.resume_from_checkpoint, "");
  EXPECT_TRUE(c.overwrite_output_dir);
  // Their name for packing that keeps samples apart switches packing on.
  EXPECT_TRUE(load("neat_packing: true\n").packing);
  EXPECT_TRUE(load("packing: true\nneat_packing: false\n").packing);
}

TEST_F(ConfigFile, WarmUpAsStepsOrRatio) {
  EXPECT_EQ(load("warmup_ratio: 0.03\n").warmup(1000), 30);
  EXPECT_EQ(load("warmup_ratio: 0.03\nwarmup_steps: 7\n").warmup(1000), 7);
  EXPECT_EQ(load("warmup_steps: 0.1\n").warmup(55), 6);
  EXPECT_EQ(load("{}").warmup(1000), 0);
}

TEST_F(ConfigFile, GradientCheckpointingNames) {
  for (const auto& [given, wanted] : std::map<std::string, std::string>{{"true", "block"}, {"false", "light"}, {"light", "light"}, {"block", "block"}, {"none", "none"}})
    EXPECT_EQ(load("gradient_checkpointing: " + given + "\n").gradient_checkpointing, wanted);
}

TEST_F(ConfigFile, TheResolvedConfigurationReadsBackTheSame) {
  const Config c = load("{}", {"learning_rate=3.3e-5", "packing=true", "output_dir=/tmp/a: b #c", "template=chatml", "val_size=0.05",
                               "resume_from_checkpoint=dir: 1/checkpoint-5", "dataset=a b.jsonl,c.jsonl", "dataset_dir=null", "seed=9007199254740992"});
  const Config again = load_config(work_.write("resolved.yaml", c.resolved_yaml()), {});
  EXPECT_EQ(again.resolved_yaml(), c.resolved_yaml());
  EXPECT_EQ(again.output_dir, "/tmp/a: b #c");
  EXPECT_EQ(again.resume_from_checkpoint, "dir: 1/checkpoint-5");
  EXPECT_EQ(again.dataset, (List{"a b.jsonl", "c.jsonl"}));
  EXPECT_EQ(again.dataset_dir, "null");
  EXPECT_EQ(again.learning_rate, 3.3e-5);
  EXPECT_EQ(again.seed, int64_t{1} << 53);
}

TEST(ConfigurationDocument, EndsWithTheReferenceThatTheProgramPrints) {
  const std::string document = read_file(fs::path(ATTUNE_ROOT) / "docs/configuration.md");
  const size_t marker = document.find("<!-- From here on");
  ASSERT_NE(marker, std::string::npos);
  const std::string generated = document.substr(document.find('\n', marker) + 1);
  EXPECT_EQ(generated, config_reference()) << "scripts/check_docs.sh --write brings it up to date";
}

TEST_F(ConfigFile, NumbersThatWouldDivideByZeroAreRefused) {
  for (const char* key : {"adam_beta1=1", "adam_beta2=1", "adam_epsilon=0"}) EXPECT_NE(refusal("{}", {key}), "") << key;
}

TEST_F(ConfigFile, CrossValidationNeedsItsEvaluationsAndItsOwnCheckpoints) {
  EXPECT_TRUE(says(refusal("{}", {"cross_validation=3", "eval_strategy=no"}), "eval_strategy"));
  EXPECT_TRUE(says(refusal("{}", {"cross_validation=3", "resume_from_checkpoint=out/checkpoint-2"}), "resume_from_checkpoint"));
  EXPECT_EQ(refusal("{}", {"cross_validation=3", "resume_from_checkpoint=true"}), "");
  EXPECT_EQ(load("resume_from_checkpoint: False\n").resume_from_checkpoint, "");
}

TEST_F(ConfigFile, TwoNamesOfOneSettingThatContradictEachOtherAreRefusedInEitherOrder) {
  for (const std::string yaml : {"use_cpu: true\ndevice: cuda\n", "device: cuda\nuse_cpu: true\n"}) {
    const std::string message = refusal(yaml);
    EXPECT_TRUE(says(message, "use_cpu: true and device: cuda")) << yaml << message;
    EXPECT_TRUE(says(message, "run.yaml:1") && says(message, "run.yaml:2")) << message;
  }
  // Whatever the layer: neither wins in silence.
  EXPECT_TRUE(says(refusal("use_cpu: false\ndevice: cuda\n", {"use_cpu=true"}), "contradict"));
  EXPECT_TRUE(says(refusal("use_cpu: true\n", {"device=cuda"}), "contradict"));
  for (const std::string yaml : {"use_cpu: true\ndevice: auto\n", "device: auto\nuse_cpu: true\n", "device: cpu\nuse_cpu: true\n", "device: cpu\nuse_cpu: false\n"})
    EXPECT_EQ(load(yaml).device, "cpu") << yaml;
  EXPECT_EQ(load("use_cpu: false\ndevice: cuda\n").device, "cuda");
  for (const std::string yaml : {"packing: false\nneat_packing: true\n", "neat_packing: true\npacking: false\n"})
    EXPECT_TRUE(says(refusal(yaml), "neat_packing: true and packing: false")) << yaml;
  EXPECT_TRUE(load("packing: true\nneat_packing: false\n").packing);
}

TEST_F(ConfigFile, SettingsWithoutEffectAreNamed) {
  const auto said = [&](const List& overrides) {
    ::testing::internal::CaptureStderr();
    load("{}", overrides);
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_TRUE(says(said({"optim=sgd", "adam_beta1=0.8"}), "no effect beside the other settings: adam_beta1"));
  EXPECT_TRUE(says(said({"optim=lion", "adam_epsilon=1e-6"}), "adam_epsilon"));
  EXPECT_TRUE(says(said({"lr_scheduler_type=constant", "warmup_ratio=0.1"}), "warmup_ratio"));
  EXPECT_TRUE(says(said({"freeze_trainable_layers=1"}), "freeze_trainable_layers"));
  EXPECT_TRUE(says(said({"metric_for_best_model=accuracy"}), "metric_for_best_model"));
  EXPECT_TRUE(says(said({"stage=dpo", "label_smoothing_factor=0.1"}), "label_smoothing_factor"));
  EXPECT_TRUE(says(said({"max_steps=10", "num_train_epochs=3"}), "num_train_epochs"));
  EXPECT_TRUE(says(said({"save_strategy=no", "save_steps=10"}), "save_steps"));
  EXPECT_TRUE(says(said({"eval_steps=10"}), "eval_steps"));
  EXPECT_TRUE(says(said({"badam_switch_interval=10"}), "badam_switch_interval"));
  EXPECT_TRUE(says(said({"clipping=off", "max_grad_norm=2"}), "max_grad_norm"));
  EXPECT_FALSE(says(said({"max_steps=10", "save_steps=5", "val_size=2", "eval_steps=5", "label_smoothing_factor=0.1", "max_grad_norm=2"}), "no effect"));
  EXPECT_FALSE(says(said({"optim=adafactor", "metric_for_best_model=accuracy", "val_size=2", "warmup_ratio=0.1"}), "no effect"));
}

TEST_F(ConfigFile, AReferenceThatWouldBeAnotherThanAskedForIsRefused) {
  EXPECT_TRUE(says(refusal("{}", {"stage=dpo", "ref_model=m", "ref_model_quantization_bit=4"}), "ref_model_quantization_bit is not available"));
  EXPECT_EQ(refusal("stage: dpo\nref_model_quantization_bit: null\n"), "");
  EXPECT_TRUE(says(refusal("{}", {"stage=rm", "val_size=2", "num_generation_samples=1"}), "num_generation_samples"));
}

TEST_F(ConfigFile, ALossThatIsAlwaysZeroIsRefused) {
  EXPECT_TRUE(says(refusal("{}", {"stage=kto", "kto_chosen_weight=0", "kto_rejected_weight=0"}), "nothing would be learnt"));
  EXPECT_EQ(refusal("{}", {"stage=kto", "kto_rejected_weight=0"}), "");
  EXPECT_TRUE(says(refusal("{}", {"stage=dpo", "pref_loss=sigmoid,ipo", "pref_loss_weights=0,0"}), "nothing would be learnt"));
  EXPECT_EQ(refusal("{}", {"stage=dpo", "pref_loss=sigmoid,ipo", "pref_loss_weights=0,0", "pref_ftx=1"}), "");
}

TEST_F(ConfigFile, OptimizersGoByTheirKnownNames) {
  const auto rule = [&](const List& overrides) { return optimizer_options(load("{}", overrides)).name; };
  for (const char* name : {"adamw_torch", "adamw", "adamw_torch_fused", "adamw_hf"}) EXPECT_EQ(rule({std::string("optim=") + name}), "adamw");
  for (const char* name : {"adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"}) EXPECT_EQ(rule({std::string("optim=") + name}), "adamw_8bit");
  for (const char* name : {"lion_8bit", "paged_lion_8bit"}) EXPECT_EQ(rule({std::string("optim=") + name}), "lion_8bit");
  for (const auto& [optim, name] : std::map<std::string, std::string>{
           {"lion_32bit", "lion"}, {"lomo", "lomo"}, {"adalomo", "adalomo"}, {"galore_adamw", "galore"}, {"galore_adamw_layerwise", "galore"},
           {"galore_adamw_8bit", "galore_8bit"}, {"galore_adamw_8bit_layerwise", "galore_8bit"}, {"apollo_adamw", "apollo"},
           {"apollo_adamw_layerwise", "apollo"}, {"muon", "muon"}})
    EXPECT_EQ(rule({"optim=" + optim}), name);
  EXPECT_TRUE(says(refusal("{}", {"optim=adamw_torch_4bit"}), "not supported"));
  EXPECT_TRUE(says(refusal("{}", {"optim=galore_adafactor"}), "not supported"));
}

TEST_F(ConfigFile, LayerwiseOptimizersUpdateInsideBackward) {
  for (const char* one : {"optim=lomo", "optim=adalomo", "optim=galore_adamw_layerwise", "optim=apollo_adamw_layerwise"})
    EXPECT_TRUE(load("{}", {one}).optimizer_in_backward) << one;
  EXPECT_TRUE(load("{}", {"use_galore=true", "galore_layerwise=true"}).optimizer_in_backward);
  EXPECT_TRUE(load("{}", {"use_apollo=true", "apollo_layerwise=true"}).optimizer_in_backward);
  for (const char* one : {"optim=adamw", "optim=galore_adamw", "optim=muon", "galore_layerwise=true"})
    EXPECT_FALSE(load("{}", {one}).optimizer_in_backward) << one;
}

TEST_F(ConfigFile, ProjectionsAreSaidInHuggingFacesWords) {
  auto o = optimizer_options(load("optim: galore_adamw\noptim_args: rank=64, update_proj_gap=100, scale=0.10\noptim_target_modules: [attn, mlp]\n"));
  EXPECT_EQ(o.low_rank.rank, 64);
  EXPECT_EQ(o.low_rank.update_gap, 100);
  EXPECT_FLOAT_EQ(o.low_rank.scale, 0.1f);
  EXPECT_EQ(o.targets, (List{"attn", "mlp"}));
  o = optimizer_options(load("optim: apollo_adamw\noptim_target_modules: all-linear\noptim_args: "
                             "proj=random,rank=1,scale=128.0,scale_type=tensor,update_proj_gap=200\n"));
  EXPECT_EQ(o.low_rank.scale_type, "tensor");
  EXPECT_FLOAT_EQ(o.low_rank.scale, 128);
  EXPECT_TRUE(o.low_rank.random && o.targets.empty());
  const auto galore = optimizer_options(load("optim: galore_adamw\n")).low_rank, apollo = optimizer_options(load("optim: apollo_adamw\n")).low_rank;
  EXPECT_EQ(galore.rank, 128);
  EXPECT_FLOAT_EQ(galore.scale, 0.25f);
  EXPECT_FLOAT_EQ(apollo.scale, 1);
  EXPECT_TRUE(says(refusal("optim: galore_adamw\noptim_args: proj=random\n"), "knows no \"proj\""));
  EXPECT_TRUE(says(refusal("optim: apollo_adamw\noptim_args: scale_type=row\n"), "channel, tensor"));
  EXPECT_TRUE(says(refusal("optim: muon\noptim_args: ns_steps=0\n"), "ns_steps"));
}

TEST_F(ConfigFile, ProjectionsAreSaidInLlamaFactorysWords) {
  auto o = optimizer_options(load("use_galore: true\ngalore_target: mlp,self_attn\ngalore_rank: 128\ngalore_scale: 2.0\ngalore_proj_type: right\n"));
  EXPECT_EQ(o.name, "galore");
  EXPECT_EQ(o.targets, (List{"mlp", "self_attn"}));
  EXPECT_EQ(o.low_rank.rank, 128);
  EXPECT_EQ(o.low_rank.side, "right");
  EXPECT_EQ(optimizer_options(load("use_galore: true\noptim: adamw_8bit\n")).name, "galore_8bit");
  o = optimizer_options(load("use_apollo: true\napollo_scale_front: true\n"));
  EXPECT_EQ(o.name, "apollo");
  EXPECT_EQ(o.low_rank.rank, 16);
  EXPECT_FLOAT_EQ(o.low_rank.scale, 32);
  EXPECT_TRUE(o.low_rank.scale_front && o.targets.empty());
  o = optimizer_options(load("use_muon: true\n"));
  EXPECT_EQ(o.name, "muon");
  EXPECT_EQ(o.muon.adjust_lr, "match_rms_adamw");
  EXPECT_EQ(optimizer_options(load("optim: muon\n")).muon.adjust_lr, "original");
}

TEST_F(ConfigFile, OptimizersThatExcludeEachOtherAreRefused) {
  EXPECT_TRUE(says(refusal("{}", {"use_galore=true", "use_apollo=true"}), "exclude each other"));
  EXPECT_TRUE(says(refusal("{}", {"use_muon=true", "use_apollo=true"}), "exclude each other"));
  EXPECT_TRUE(says(refusal("{}", {"use_galore=true", "optim=sgd"}), "contradict"));
  EXPECT_TRUE(says(refusal("{}", {"use_galore=true", "optim=adafactor"}), "contradict"));
  EXPECT_TRUE(says(refusal("{}", {"use_apollo=true", "optim=adamw_8bit"}), "contradict"));
  EXPECT_TRUE(says(refusal("{}", {"use_muon=true", "optim=lion"}), "contradict"));
  EXPECT_TRUE(says(refusal("{}", {"optim=adamw", "optim_target_modules=mlp"}), "optim_target_modules belongs to"));
  EXPECT_TRUE(says(refusal("{}", {"use_galore=true", "optim_target_modules=mlp"}), "galore_target"));
}

TEST_F(ConfigFile, AQuantisedBaseGoesByTheNamesPeopleKnow) {
  const auto how = [&](List overrides) {
    overrides.insert(overrides.begin(), "finetuning_type=lora");
    return text_of(load("{}", overrides).quantization());
  };
  EXPECT_EQ(how({}), "none");
  EXPECT_EQ(how({"quantization_bit=4"}), "nf4-double");
  EXPECT_EQ(how({"quantization_bit=4", "quantization_type=fp4", "double_quantization=false"}), "fp4");
  EXPECT_EQ(how({"quantization_bit=8"}), "int8");
  EXPECT_EQ(how({"load_in_4bit=true"}), "nf4-double");
  EXPECT_EQ(how({"load_in_8bit=true", "qlora=true"}), "int8");
  EXPECT_EQ(how({"qlora=true"}), "nf4-double");
  EXPECT_EQ(how({"quantization_bit=none", "quantization_method=bitsandbytes"}), "none");
  EXPECT_EQ(text_of(load("finetuning_type: lora\nquantization_bit: null\n").quantization()), "none");
  const auto refused = [&](List overrides, const std::string& part) {
    overrides.insert(overrides.begin(), "finetuning_type=lora");
    const std::string message = refusal("{}", overrides);
    EXPECT_TRUE(says(message, part)) << message;
  };
  refused({"quantization_bit=2"}, "expected 4 or 8");
  refused({"quantization_method=gptq"}, "gptq is not available");
  refused({"load_in_4bit=true", "load_in_8bit=true"}, "choose one");
  refused({"quantization_bit=8", "load_in_4bit=true"}, "choose one");
  refused({"quantization_bit=4", "pissa_init=true"}, "pissa_init");
  refused({"quantization_bit=4", "init_lora_weights=olora"}, "olora");
  for (const char* type : {"full", "freeze"}) EXPECT_TRUE(says(refusal("{}", {std::string("finetuning_type=") + type, "load_in_4bit=true"}), "finetuning_type: lora"));
}

}  // namespace
}  // namespace attune::train
