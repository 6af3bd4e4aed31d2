// Adapters as a user meets them: trained, resumed, continued, used and merged.
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "formats/model_directory.h"
#include "formats/peft.h"
#include "program.h"

namespace attune {
namespace {

using namespace test;

class AdapterRun : public ::testing::Test {
 protected:
  Workspace work;
  std::string base = make_small_model(work / "base").string();
  std::string data = work.write("data.jsonl", small_alpaca(24)).string();

  std::vector<std::string> training(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args{"train", "model_name_or_path=" + base, "dataset=" + data, "template=default", "finetuning_type=lora",
                                  "cutoff_len=96", "per_device_train_batch_size=4", "learning_rate=0.01", "max_steps=6", "save_steps=3",
                                  "token_cache=false", "output_dir=" + (work / out).string()};
    for (const std::string& setting : more) {
      std::erase_if(args, [&](const std::string& a) { return a.starts_with(setting.substr(0, setting.find('=') + 1)); });
      args.push_back(setting);
    }
    return args;
  }
  std::vector<double> nll(const std::string& model, const std::string& adapters = "") {
    const std::string text = work.write("text.txt", "The cat was happy and saw a tree.\n").string();
    std::vector<std::string> args{"score", "--model", model, "--file", text};
    if (!adapters.empty()) args.insert(args.end(), {"--adapter", adapters});
    const Result r = run(args);
    EXPECT_EQ(r.code, 0) << r.err;
    return parse_json(lines_of(r.out).at(0), "score")["nll"].get<std::vector<double>>();
  }
  static double furthest(const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b.at(i)));
    return most;
  }
};

TEST_F(AdapterRun, LeavesAnAdapterThatResumesToTheSameBitsAndNoBaseTensor) {
  Result r = run(training("whole", {"lora_dropout=0.1"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("trainable parameters: 8,192 of "), std::string::npos) << r.err; 
  EXPECT_FALSE(fs::exists(work / "whole/model.safetensors"));
  EXPECT_TRUE(fs::exists(work / "whole/tokenizer.model"));
  for (const char* at : {"whole", "whole/checkpoint-3"}) {
    const auto file = formats::open_adapter(work / at);
    EXPECT_EQ(file->tensors().size(), 28u) << at;
    for (const auto& t : file->tensors()) EXPECT_NE(t.name.find(".lora_"), std::string::npos) << t.name;
    EXPECT_FALSE(fs::exists(work / at / "config.json"));
  }
  r = run(training("part", {"lora_dropout=0.1", "resume_from_checkpoint=" + (work / "whole/checkpoint-3").string()}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_file(work / "part/adapter_model.safetensors"), read_file(work / "whole/adapter_model.safetensors"));
  r = run(training("part", {"lora_rank=4", "overwrite_output_dir=true", "resume_from_checkpoint=" + (work / "whole/checkpoint-3").string()}));
  EXPECT_EQ(r.code, 2) << r.err;
}

TEST_F(AdapterRun, ATensorTrainResumesContinuesAndMergesLikeAnyAdapter) {
  for (const std::string weighted : {"false", "true"}) {
    const std::vector<std::string> train{"use_tensor_train=true", "tt_bond=2", "tt_weighted=" + weighted, "bf16=true"};
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), train.begin(), train.end());
      return more;
    };
    const std::string whole = (work / ("whole" + weighted)).string(), part = (work / ("part" + weighted)).string();
    Result r = run(training("whole" + weighted, train));
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.err.find("; the 8,192 of the adapter's A and B follow from them"), std::string::npos) << r.err;
    r = run(training("part" + weighted, with({"resume_from_checkpoint=" + whole + "/checkpoint-3"})));
    ASSERT_EQ(r.code, 0) << r.err;
    for (const char* file : {"adapter_model.safetensors", "tensor_train.safetensors"})
      EXPECT_EQ(read_file(fs::path(part) / file), read_file(fs::path(whole) / file)) << file;
    // Its own bond and weights, whatever the keys say.
    r = run(training("on" + weighted, {"adapter_name_or_path=" + whole, "learning_rate=0", "bf16=true"}));
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_LT(furthest(nll(base, (work / ("on" + weighted)).string()), nll(base, whole)), 1e-5);
    EXPECT_TRUE(fs::exists(work / ("on" + weighted) / "tensor_train.safetensors"));
    const std::string merged = (work / ("merged" + weighted)).string();
    ASSERT_EQ(run({"merge", "--model", base, "--adapter", whole, "--out", merged}).code, 0);
    EXPECT_LT(furthest(nll(base, whole), nll(merged)), 1e-4);
    EXPECT_GT(furthest(nll(base, whole), nll(base)), 1e-3);
  }
  ASSERT_EQ(run(training("plain", {"max_steps=1"})).code, 0);
  const auto refused = [&](const std::vector<std::string>& more) {
    const Result r = run(training("no", more));
    EXPECT_EQ(r.code, 2) << r.err;
    return r.err;
  };
  EXPECT_NE(refused({"use_tensor_train=true", "adapter_name_or_path=" + (work / "plain").string()}).find("plain LoRA"), std::string::npos);
  for (const char* other : {"use_dora=true", "pissa_init=true", "init_lora_weights=olora"})
    EXPECT_NE(refused({"use_tensor_train=true", other}).find("use_tensor_train"), std::string::npos) << other;
}

TEST_F(AdapterRun, MergedAnswersLikeTheAdapterAndIsAModelOfItsOwn) {
  ASSERT_EQ(run(training("a")).code, 0);
  const std::string a = (work / "a").string(), merged = (work / "merged").string();
  const Result r = run({"merge", "--model", base, "--adapter", a, "--out", merged});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("largest difference of a logit"), std::string::npos) << r.err;
  EXPECT_LT(furthest(nll(base, a), nll(merged)), 1e-4);
  EXPECT_GT(furthest(nll(base, a), nll(base)), 1e-2);
  EXPECT_TRUE(fs::exists(fs::path(merged) / "chat_template.jinja"));  // of the run
  EXPECT_EQ(run({"merge", "--model", base, "--adapter", a, "--out", merged}).code, 2);  // never over something
  const Result wrong = run({"generate", "--model", a, "--prompt", "x"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("adapter"), std::string::npos);
}

TEST_F(AdapterRun, ContinuesAnAdapterOrTrainsANewOneOnTopOfIt) {
  ASSERT_EQ(run(training("first")).code, 0);
  const std::string first = (work / "first").string();
  Result r = run(training("on", {"adapter_name_or_path=" + first, "lora_rank=2", "learning_rate=0"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("no effect beside the other settings: lora_rank"), std::string::npos) << r.err;
  EXPECT_LT(furthest(nll(base, (work / "on").string()), nll(base, first)), 1e-6);
  r = run(training("top", {"adapter_name_or_path=" + first, "create_new_adapter=true", "lora_rank=2", "lora_target=q_proj"}));
  ASSERT_EQ(r.code, 0) << r.err;
  const std::string both = first + "," + (work / "top").string(), merged = (work / "merged").string();
  ASSERT_EQ(run({"merge", "--model", base, "--adapter", both, "--out", merged}).code, 0);
  EXPECT_LT(furthest(nll(base, both), nll(merged)), 1e-4);
  EXPECT_GT(furthest(nll(base, both), nll(base, first)), 1e-4);
  r = run(training("first", {"adapter_name_or_path=" + first, "overwrite_output_dir=true"}));
  EXPECT_EQ(r.code, 2);  // it would delete what it begins with
}

TEST_F(AdapterRun, AHeadThatIsTrainedBesideATiedEmbeddingStaysItsOwn) {
  Json config = small_llama_config();
  config["tie_word_embeddings"] = true;
  base = make_small_model(work / "tied", config).string();
  ASSERT_EQ(run(training("head", {"additional_target=lm_head", "lora_target=q_proj"})).code, 0);
  const std::string head = (work / "head").string(), merged = (work / "merged").string();
  const Result r = run({"merge", "--model", base, "--adapter", head, "--out", merged});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_json(fs::path(merged) / "config.json")["tie_word_embeddings"], false);
  EXPECT_LT(furthest(nll(base, head), nll(merged)), 1e-4);
  formats::SafetensorsFile before(fs::path(base) / "model.safetensors"), after(fs::path(merged) / "model.safetensors");
  std::vector<float> x(512 * 32), y(x.size());
  before.read(*before.find("model.embed_tokens.weight"), DType::f32, x.data());
  after.read(*after.find("model.embed_tokens.weight"), DType::f32, y.data());
  EXPECT_EQ(x, y);
  EXPECT_NE(after.find("lm_head.weight"), nullptr);
}

TEST_F(AdapterRun, DoraAndAdaptersOnEmbeddingAndHeadResumeAndMerge) {
  Json config = small_llama_config();
  config["tie_word_embeddings"] = true;
  const std::string tied = make_small_model(work / "tied", config).string();
  for (const auto& [name, more] : {std::pair<std::string, std::vector<std::string>>{"dora", {"use_dora=true", "lora_dropout=0.1", "bf16=true"}},
                                   {"tables", {"lora_target=all,embed_tokens,lm_head", "model_name_or_path=" + tied, "loraplus_lr_ratio=4"}}}) {
    if (name == "tables") base = tied;
    Result r = run(training(name, more));
    ASSERT_EQ(r.code, 0) << r.err;
    auto again = more;
    again.push_back("resume_from_checkpoint=" + (work / name / "checkpoint-3").string());
    ASSERT_EQ(run(training(name + "_part", again)).code, 0);
    EXPECT_EQ(read_file(work / (name + "_part") / "adapter_model.safetensors"), read_file(work / name / "adapter_model.safetensors"));
    const std::string adapter = (work / name).string(), merged = (work / (name + "_merged")).string();
    r = run({"merge", "--model", base, "--adapter", adapter, "--out", merged});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_LT(furthest(nll(base, adapter), nll(merged)), 1e-4);
    EXPECT_GT(furthest(nll(base, adapter), nll(base)), 1e-2);
  }
}

TEST_F(AdapterRun, DoraOnAQuantisedBaseResumesAndMergesIntoWhatItWasTrainedBeside) {
  const Result r = run(training("q", {"use_dora=true", "lora_dropout=0.1", "quantization_bit=4"}));
  ASSERT_EQ(r.code, 0) << r.err;
  ASSERT_EQ(run(training("part", {"use_dora=true", "lora_dropout=0.1", "quantization_bit=4", "resume_from_checkpoint=" + (work / "q/checkpoint-3").string()})).code, 0);
  EXPECT_EQ(read_file(work / "part/adapter_model.safetensors"), read_file(work / "q/adapter_model.safetensors"));
  const Result merged = run({"merge", "--model", base, "--adapter", (work / "q").string(), "--out", (work / "merged").string(), "--base", "dequantized"});
  EXPECT_EQ(merged.code, 0) << merged.err;  // it fails where the logits of the two are apart
}

TEST_F(AdapterRun, EvalOfAConfigurationAsksBaseAndAdapter) {
  auto args = training("a", {"val_size=4"});
  ASSERT_EQ(run(args).code, 0);
  args[0] = "eval";
  args.emplace_back("max_new_tokens=4");
  args.emplace_back("--json");
  const Result r = run(args);
  ASSERT_EQ(r.code, 0) << r.err;
  const Json scores = parse_json(r.out, "eval");
  EXPECT_EQ(scores["adapters"][0], (work / "a").string());
  EXPECT_NEAR(scores["loss"].get<double>(), read_json(work / "a/all_results.json")["eval_loss"].get<double>(), 1e-4);
}

TEST_F(AdapterRun, AnAdapterOfAnotherBaseIsRefused) {
  ASSERT_EQ(run(training("a")).code, 0);
  Json config = small_llama_config();
  config["hidden_size"] = 48;
  const std::string other = make_small_model(work / "other", config).string();
  for (const auto& args : {std::vector<std::string>{"score", "--model", other, "--file", data, "--adapter", (work / "a").string()},
                           {"merge", "--model", other, "--adapter", (work / "a").string(), "--out", (work / "m").string()}}) {
    const Result r = run(args);
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_NE(r.err.find("another base"), std::string::npos) << r.err;
  }
  EXPECT_FALSE(fs::exists(work / "m"));
}

// Merging looks at it before anything is written, also where the answers are not compared.
TEST_F(AdapterRun, OneWithNumbersThatAreNoneIsNeitherUsedNorMerged) {
  for (const std::string more : {"lora_target=q_proj", "additional_target=norm"}) {
    ASSERT_EQ(run(training("a", {more, "max_steps=1", "overwrite_output_dir=true"})).code, 0);
    std::string bytes = read_file(work / "a/adapter_model.safetensors");
    const uint32_t nan = 0x7FC00000u;
    std::memcpy(&bytes[bytes.size() - 4], &nan, 4);
    write_file(work / "a/adapter_model.safetensors", bytes);
    const std::string a = (work / "a").string();
    for (const auto& args : {std::vector<std::string>{"score", "--model", base, "--file", data, "--adapter", a}, {"score", "--model", base, "--file", data, "--adapter", a, "--use", "a"},
                             {"merge", "--model", base, "--adapter", a, "--out", (work / "m").string(), "--no-check"}})
      expect_failure(run(args), 1, "holds a number that is not finite");
    EXPECT_FALSE(fs::exists(work / "m"));
  }
}

TEST_F(AdapterRun, OnAQuantisedBaseResumesToTheSameBitsAndEvaluatesOnIt) {
  const std::vector<std::string> four{"quantization_bit=4", "val_size=4"};
  Result r = run(training("whole", four));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("nf4-double, 4.13 bits each"), std::string::npos) << r.err;
  EXPECT_EQ(read_json(work / "whole/attune_manifest.json")["base"]["quantization"], "nf4-double");
  EXPECT_FALSE(read_file(work / "whole/adapter_config.json").find("quant") != std::string::npos);  // PEFT's own keys alone
  const std::string resumed = "resume_from_checkpoint=" + (work / "whole/checkpoint-3").string();
  ASSERT_EQ(run(training("part", {four[0], four[1], resumed})).code, 0);
  EXPECT_EQ(read_file(work / "part/adapter_model.safetensors"), read_file(work / "whole/adapter_model.safetensors"));
  r = run(training("other", {"quantization_bit=8", four[1], resumed}));
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("quantization was \"nf4-double\""), std::string::npos) << r.err;
  auto args = training("whole", four);
  args[0] = "eval";
  args.insert(args.end(), {"max_new_tokens=4", "--json"});
  r = run(args);
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NEAR(parse_json(r.out, "eval")["loss"].get<double>(), read_json(work / "whole/all_results.json")["eval_loss"].get<double>(), 1e-4);
}

TEST_F(AdapterRun, MergingAsksForTheBaseOfAQuantisedRunAndMeasuresBoth) {
  ASSERT_EQ(run(training("a", {"quantization_bit=4", "quantization_type=fp4", "lora_target=q_proj,down_proj"})).code, 0);
  const std::string a = (work / "a").string();
  const auto merge = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> args{"merge", "--model", base, "--adapter", a, "--out", (work / out).string(), "--dtype", "float32"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  Result r = merge("m", {});
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("--base dequantized"), std::string::npos) << r.err;
  EXPECT_FALSE(fs::exists(work / "m"));
  r = merge("dequantized", {"--base", "dequantized"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("merged with --base dequantized"), std::string::npos) << r.err;
  EXPECT_NE(r.err.find("with --base 16bit instead"), std::string::npos) << r.err;
  r = merge("files", {"--base", "16bit"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("with --base dequantized instead"), std::string::npos) << r.err;
  // As the adapter was trained, and as it answers on the base itself.
  const std::string text = work.write("text.txt", "The cat was happy and saw a tree.\n").string();
  const Result trained = run({"score", "--model", base, "--adapter", a, "--quantization", "fp4-double", "--file", text});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto expected = parse_json(lines_of(trained.out).at(0), "score")["nll"].get<std::vector<double>>();
  EXPECT_LT(furthest(expected, nll((work / "dequantized").string())), 1e-4);
  EXPECT_LT(furthest(nll(base, a), nll((work / "files").string())), 1e-4);
  EXPECT_GT(furthest(expected, nll(base, a)), 1e-3);
  // Beside another base it answers, and that is said.
  EXPECT_TRUE(says(run({"score", "--model", base, "--adapter", a, "--file", text}).err, "--quantization fp4-double holds it as then"));
  EXPECT_FALSE(says(trained.err, "--quantization"));
  // Elsewhere the adapter alone does not say so.
  fs::remove(fs::path(a) / "attune_config.yaml");
  EXPECT_EQ(merge("n", {"--base", "dequantized"}).code, 2);
  ASSERT_EQ(merge("said", {"--base", "dequantized", "--quantization", "fp4-double", "--no-check"}).code, 0);
  EXPECT_EQ(read_file(work / "said/model.safetensors"), read_file(work / "dequantized/model.safetensors"));
}

// Two adapters that were trained apart: chosen, weighted and summed, by the same words at run time and in merge.
TEST_F(AdapterRun, SeveralAddUpAsTheirMergeAndOneIsChosenWithoutTheOthers) {
  ASSERT_EQ(run(training("law", {"lora_target=q_proj,down_proj"})).code, 0);
  ASSERT_EQ(run(training("tone", {"lora_target=q_proj,up_proj", "lora_rank=4", "seed=7"})).code, 0);
  const std::string law = (work / "law").string(), tone = (work / "tone").string();
  const std::string text = work.write("text.txt", "The cat was happy and saw a tree.\n").string();
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args{"score", "--model", base, "--file", text, "--adapter", law, "--adapter", "style=" + tone};
    args.insert(args.end(), more.begin(), more.end());
    const Result r = run(args);
    EXPECT_EQ(r.code, 0) << r.err;
    return parse_json(lines_of(r.out).at(0), "score")["nll"].get<std::vector<double>>();
  };
  EXPECT_EQ(with({"--use", "style"}), nll(base, tone));
  EXPECT_EQ(with({"--use", "law"}), nll(base, law));
  EXPECT_EQ(with({"--use", "none"}), nll(base));
  for (const std::string use : {"", "0.4*law+style"}) {
    const std::string merged = (work / ("merged" + use)).string();
    std::vector<std::string> args{"merge", "--model", base, "--adapter", law, "--adapter", "style=" + tone, "--out", merged, "--dtype", "float32"};
    std::vector<std::string> chosen;
    if (!use.empty()) chosen = {"--use", use};
    args.insert(args.end(), chosen.begin(), chosen.end());
    const Result r = run(args);
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_LT(furthest(with(chosen), nll(merged)), 1e-5) << use;
    EXPECT_GT(furthest(with(chosen), nll(base, law)), 1e-3) << use;
  }
  expect_failure(run({"score", "--model", base, "--file", text, "--adapter", law, "--adapter", tone + "," + law}), 2, "a chain");
  expect_failure(run({"score", "--model", base, "--file", text, "--adapter", law, "--adapter", law}), 2, "both called law");
  expect_failure(run({"score", "--model", base, "--file", text, "--adapter", law, "--adapter", tone, "--use", "style"}), 2, "law, tone");
  expect_failure(run({"score", "--model", base, "--file", text, "--use", "law"}), 2, "--adapter");
  ASSERT_EQ(run(training("dora", {"use_dora=true", "max_steps=1"})).code, 0);
  expect_failure(run({"merge", "--model", base, "--adapter", law, "--adapter", (work / "dora").string(), "--out", (work / "no").string()}), 2, "DoRA");
  EXPECT_FALSE(fs::exists(work / "no"));
}

// Each was tuned with a template of its own; the one that is chosen is asked in its own.
TEST_F(AdapterRun, OfSeveralTheFirstThatIsChosenBringsTheTemplate) {
  ASSERT_EQ(run(training("law", {"lora_target=q_proj", "learning_rate=0.05"})).code, 0);
  ASSERT_EQ(run(training("tone", {"lora_target=q_proj", "learning_rate=0.05", "template=alpaca", "cutoff_len=240"})).code, 0);
  const std::string law = (work / "law").string(), tone = (work / "tone").string();
  const auto answer = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args{"generate", "--model", base, "--max-new-tokens", "8", "--chat", "--prompt", "Hi", "--json"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  const auto prompt = [](const Result& r) { return parse_json(r.out, "answer")["prompt_ids"]; };
  const Result alone = answer({"--adapter", tone}), chosen = answer({"--adapter", law, "--adapter", tone, "--use", "tone"}), both = answer({"--adapter", law, "--adapter", tone});
  ASSERT_EQ(chosen.code, 0) << chosen.err;
  EXPECT_EQ(prompt(chosen), prompt(alone));
  EXPECT_EQ(prompt(both), prompt(answer({"--adapter", law})));
  EXPECT_NE(prompt(both), prompt(alone));
  EXPECT_TRUE(says(chosen.err, "law was tuned with another chat template")) << chosen.err;
  for (const char* use : {"law+tone", "tone"}) {
    const fs::path merged = work / (std::string("merged ") + use);
    ASSERT_EQ(run({"merge", "--model", base, "--adapter", law, "--adapter", tone, "--use", use, "--out", merged.string(), "--no-check"}).code, 0);
    EXPECT_EQ(read_file(merged / "chat_template.jinja"), read_file(work / (std::string(use) == "tone" ? "tone" : "law") / "chat_template.jinja")) << use;
  }
}

TEST_F(AdapterRun, RowsOfAFileAndAConversationChooseTheirAdapter) {
  ASSERT_EQ(run(training("law", {"lora_target=q_proj,down_proj", "learning_rate=0.05"})).code, 0);
  ASSERT_EQ(run(training("tone", {"lora_target=q_proj,up_proj", "learning_rate=0.05", "seed=7"})).code, 0);
  const std::string law = (work / "law").string(), tone = (work / "tone").string();
  const auto generate = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--model", base, "--max-new-tokens", "8"});
    return run(more);
  };
  std::string rows;
  for (const char* choice : {"tone", "law", "none", "tone", "0.5*law+tone"}) rows += Json{{"prompt", "The cat"}, {"adapter", choice}}.dump() + "\n";
  const std::string file = work.write("rows.jsonl", rows + "{\"prompt\":\"The cat\"}\n").string();
  const Result r = generate({"--file", file, "--adapter", law, "--adapter", tone, "--use", "law"});
  ASSERT_EQ(r.code, 0) << r.err;
  std::vector<std::string> answers;
  for (const std::string& line : lines_of(r.out)) answers.push_back(parse_json(line, "row")["predict"].get<std::string>() + "\n");
  ASSERT_EQ(answers.size(), 6u);
  EXPECT_EQ(answers[0], generate({"--prompt", "The cat", "--adapter", tone}).out);
  EXPECT_EQ(answers[1], generate({"--prompt", "The cat", "--adapter", law}).out);
  EXPECT_EQ(answers[2], generate({"--prompt", "The cat"}).out);
  EXPECT_EQ(answers[3], answers[0]);
  EXPECT_EQ(answers[4], generate({"--prompt", "The cat", "--adapter", law, "--adapter", tone, "--use", "0.5*law+tone"}).out);
  EXPECT_EQ(answers[5], answers[1]);
  EXPECT_EQ(parse_json(lines_of(r.out)[0], "row")["adapter"], "tone");
  EXPECT_NE(answers[0], answers[2]);
  // A row that asks for what is not there is an error of that row.
  work.write("wrong.jsonl", "{\"prompt\":\"The cat\"}\n{\"prompt\":\"The cat\",\"adapter\":\"medicine\"}\n");
  const Result wrong = generate({"--file", (work / "wrong.jsonl").string(), "--adapter", law});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_TRUE(says(lines_of(wrong.out).at(1), "there is no adapter")) << wrong.out;
  EXPECT_TRUE(says(generate({"--file", (work / "wrong.jsonl").string()}).out, "--adapter NAME=DIRECTORY"));

  const auto chat = [&](const std::string& input, const std::string& adapters) {
    work.write("chat.in", input);
    const std::string out = (work / "chat.out").string(), err = (work / "chat.err").string();
    EXPECT_EQ(std::system(fmt::format("timeout 60 '{}' chat --model '{}' --template alpaca --max-new-tokens 8 {} < '{}' > '{}' 2> '{}'", ATTUNE_PROGRAM, base, adapters,
                                      (work / "chat.in").string(), out, err).c_str()), 0) << read_file(err);
    return read_file(out);
  };
  const std::string both = fmt::format("--adapter '{}' --adapter '{}'", law, tone), again = "/reset\n";
  EXPECT_EQ(chat("/adapter law\nHi\n" + again + "/adapter none\nHi\n" + again + "/adapter tone\nHi\n", both),
            chat("Hi\n", fmt::format("--adapter '{}'", law)) + chat("Hi\n", "") + chat("Hi\n", fmt::format("--adapter '{}'", tone)));
  // Not only the next question: all that was said is read by the one that answers.
  EXPECT_EQ(lines_of(chat("/adapter law\nHi\n/adapter tone\nAnd now?\n/adapter law\n/retry\n", both)).back(),
            lines_of(chat("/adapter law\nHi\nAnd now?\n", both)).back());
  EXPECT_EQ(chat("Hi\n/adapter none\n/reset\nHi\n", fmt::format("--adapter '{}'", law)), chat("Hi\n", fmt::format("--adapter '{}'", law)) + chat("Hi\n", ""));
}

// What an adapter is held near is how it began, not where the run was killed.
TEST_F(AdapterRun, HeldNearTheBaseItResumesToTheSameBits) {
  for (const std::vector<std::string>& more : {std::vector<std::string>{"bias=lora_only"}, {"pissa_init=true", "additional_target=norm"}, {"use_dora=true", "bf16=true"}}) {
    const std::string whole = (work / more[0]).string();
    auto args = more;
    args.insert(args.end(), {"l2_to_base=20"});
    Result r = run(training(more[0], args));
    ASSERT_EQ(r.code, 0) << r.err;
    args.push_back("resume_from_checkpoint=" + whole + "/checkpoint-3");
    r = run(training("part " + more[0], args));
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(read_file(work / ("part " + more[0]) / "adapter_model.safetensors"), read_file(fs::path(whole) / "adapter_model.safetensors")) << more[0];
  }
}

TEST_F(AdapterRun, ComparedRunsAreOneTable) {
  const std::vector<std::string> watched{"val_size=4", "eval_on_start=true"};
  ASSERT_EQ(run(training("lora", watched)).code, 0);
  ASSERT_EQ(run(training("full", {watched[0], watched[1], "finetuning_type=full", "learning_rate=0.001"})).code, 0);
  const std::string lora = (work / "lora").string(), full = (work / "full").string();
  const Result r = run({"runs", "compare", "--json", lora, full});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json all = parse_json(r.out, "runs");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["method"], "LoRA, rank 8");
  EXPECT_EQ(all[0]["trainable_parameters"], 8192);
  EXPECT_EQ(all[1]["method"], "full");
  EXPECT_EQ(all[1]["trainable_parameters"], all[1]["parameters"]);
  EXPECT_DOUBLE_EQ(all[0]["validation_loss"]["before"].get<double>(), all[1]["validation_loss"]["before"].get<double>());
  EXPECT_DOUBLE_EQ(all[0]["validation_loss"]["after"].get<double>(), read_json(work / "lora/eval_results.json")["eval_loss"].get<double>());
  EXPECT_GT(all[0]["peak_memory_bytes"].get<int64_t>(), 0);
  EXPECT_TRUE(says(run({"runs", "compare", lora, full}).out, "validation loss"));
  EXPECT_TRUE(says(run({"runs", "compare", "--markdown", full}).out, "| full | full |"));
  expect_failure(run({"runs", "compare", base}), 2, "train_results.json");
}

}  // namespace
}  // namespace attune
