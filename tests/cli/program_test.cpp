// The program's surface: exit codes, what goes to stdout and what to stderr, messages for requests that cannot be met.
#include <sys/stat.h>

#include "cli/program.h"

namespace attune {
namespace {

using namespace test;

// A model directory and small files for all tests of the suite.
class Program : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new Workspace;
    make_small_model(*work_ / "model");
    work_->write("data.jsonl", small_alpaca(20));
    work_->write("lines.txt", "Once upon a time\n\nthere was  a cat\n");
  }
  static void TearDownTestSuite() { delete work_; }
  static std::string at(const std::string& name) { return (*work_ / name).string(); }
  static Workspace* work_;
};
Workspace* Program::work_ = nullptr;

TEST_F(Program, VersionAndHelpGoToStdout) {
  const Result version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(version.out.starts_with("attune ")) << version.out;
  EXPECT_EQ(version.err, "");
  const std::vector<std::vector<std::string>> commands{{}, {"train"}, {"plan"}, {"data"}, {"data", "validate"}, {"data", "stats"}, {"data", "inspect"},
                                                       {"init"}, {"generate"}, {"chat"}, {"score"}, {"eval"}, {"tokenize"}, {"tokenizer"}, {"tokenizer", "train"}, {"doctor"}, {"bench"}};
  for (auto command : commands) {
    command.push_back("--help");
    const Result help = run(command);
    EXPECT_EQ(help.code, 0) << command[0];
    EXPECT_TRUE(says(help.out, "--help")) << help.out;
    EXPECT_EQ(help.err, "");
  }
  EXPECT_TRUE(says(run({"train", "--help-config"}).out, "| `learning_rate` |"));
}

TEST_F(Program, RequestsThatAreWrongExitWithTwo) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {}, {"fly"}, {"generate"}, {"generate", "--model", at("model")}, {"score", "--nonsense"}, {"data"}, {"tokenizer"},
           {"generate", "--model", at("model"), "--prompt", "x", "--max-new-tokens", "0"},
           {"generate", "--model", at("model"), "--prompt", "x", "--max-new-tokens", "99999999999999999999"},
           {"generate", "--model", at("model"), "--prompt", "x", "--temperature", "-1"},
           {"generate", "--model", at("model"), "--prompt", "x", "--temperature", "nan"},
           {"generate", "--model", at("model"), "--prompt", "x", "--top-p", "2"},
           {"generate", "--model", at("model"), "--prompt", "x", "--seed", "many"}}) {
    const Result r = run(arguments);
    EXPECT_EQ(r.code, 2) << (arguments.empty() ? "" : arguments.back()) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_NE(r.err, "");
  }
  expect_failure(run({"train", "nowhere.yaml"}), 2, "nowhere.yaml");
  expect_failure(run({"train", "learnig_rate=1"}), 2, "did you mean \"learning_rate\"");
  expect_failure(run({"train", "model_name_or_path=" + at("model"), "dataset=nowhere"}), 2, "\"nowhere\" is neither a file");
  expect_failure(run({"train", "model_name_or_path=" + at("nowhere"), "dataset=x"}), 2, "not a directory");
  work_->write("no_data/slides.pdf", "x");
  expect_failure(run({"train", "model_name_or_path=" + at("model"), "dataset=" + at("no_data")}), 2, "is a directory without data files");
  expect_failure(run({"train", "model_name_or_path=" + at("model"), "dataset=" + at("data.jsonl"), "template=vicunna"}), 2, "vicuna");
  expect_failure(run({"train", "model_name_or_path=" + at("model"), "dataset=" + at("data.jsonl")}), 2, "no chat template");
  expect_failure(run({"score", "--model", at("model"), "--file", at("nowhere.txt")}), 2, "no such file");
  expect_failure(run({"tokenize", "--model", at("model"), "--file", at("nowhere.txt")}), 2, "no such file");
  expect_failure(run({"score", "--model", at("model"), "--file", work_->path().string()}), 2, "not a regular file");
  // A pipe without a writer must not be waited for.
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  expect_failure(run({"score", "--model", at("model"), "--file", at("pipe")}), 2, "not a regular file");
  expect_failure(run({"train", at("pipe")}), 2, "not a regular file");
  expect_failure(run({"score", "--model", at("model"), "--file", at("lines.txt"), "--compute", "int3"}), 2, "--compute");
  expect_failure(run({"init", "--config", at("nowhere.json"), "--out", at("x")}), 1, "nowhere.json");
  expect_failure(run({"init", "--config", at("model/config.json"), "--out", at("model")}), 2, "already holds a model");
}

TEST_F(Program, AFamilyThatIsNotSupportedIsNamedWithThoseThatAre) {
  Json config = small_llama_config();
  config["model_type"] = "mamba";
  work_->write("mamba/config.json", config.dump());
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"generate", "--model", at("mamba"), "--prompt", "x"}, {"score", "--model", at("mamba"), "--file", at("lines.txt")},
           {"train", "model_name_or_path=" + at("mamba"), "dataset=" + at("data.jsonl")}, {"init", "--config", at("mamba/config.json"), "--out", at("new")}}) {
    const Result r = run(arguments);
    expect_failure(r, 2, "\"mamba\" is not supported");
    EXPECT_TRUE(says(r.err, "llama")) << r.err;
    EXPECT_TRUE(says(r.err, "qwen2")) << r.err;
  }
  EXPECT_FALSE(fs::exists(at("new")));
}

TEST_F(Program, AMissingTokenizerIsNamed) {
  make_small_model(*work_ / "bare");
  fs::remove(*work_ / "bare/tokenizer.model");
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"generate", "--model", at("bare"), "--prompt", "x"}, {"tokenize", "--model", at("bare"), "--file", at("lines.txt")},
           {"train", "model_name_or_path=" + at("bare"), "dataset=" + at("data.jsonl")}})
    expect_failure(run(arguments), 2, "tokenizer");
}

TEST_F(Program, ScoreWritesOneObjectALine) {
  const Result r = run({"score", "--model", at("model"), "--file", at("lines.txt")});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto lines = lines_of(r.out);
  ASSERT_EQ(lines.size(), 3u);
  std::vector<Json> rows;
  for (const auto& line : lines) rows.push_back(parse_json(line, "score"));
  for (const Json& row : rows) {
    EXPECT_EQ(row.size(), 4u);
    const size_t n = row["ids"].size();
    ASSERT_GE(n, 1u);
    EXPECT_EQ(row["ids"][0], 1);  // BOS, the tokenizer's own
    EXPECT_EQ(row["tokens"].size(), n);
    EXPECT_EQ(row["nll"].size(), n - 1);
    double sum = 0;
    for (const Json& x : row["nll"]) {
      EXPECT_GT(x.get<double>(), 0);
      sum += x.get<double>();
    }
    if (n > 1) {
      EXPECT_NEAR(row["mean_nll"].get<double>(), sum / static_cast<double>(n - 1), 1e-5);
      // Random weights know nothing: about log 512.
      EXPECT_NEAR(row["mean_nll"].get<double>(), 6.24, 0.5);
    } else {
      EXPECT_TRUE(row["mean_nll"].is_null());
    }
  }
  // The same ids give the same numbers; bf16 nearly.
  std::string ids;
  for (const Json& row : rows) ids += row["ids"].dump() + "\n";
  work_->write("ids.txt", ids);
  EXPECT_EQ(run({"score", "--model", at("model"), "--file", at("ids.txt"), "--ids"}).out, r.out);
  const auto half = lines_of(run({"score", "--model", at("model"), "--file", at("ids.txt"), "--ids", "--compute", "bf16"}).out);
  ASSERT_EQ(half.size(), 3u);
  EXPECT_NEAR(parse_json(half[0], "score")["mean_nll"].get<double>(), rows[0]["mean_nll"].get<double>(), 3e-2);
}

TEST_F(Program, IdsThatDoNotExistAreRefused) {
  const auto with = [&](const std::string& line) { return work_->write("bad_ids.txt", line + "\n").string(); };
  for (const char* line : {"[1, 512]", "[1, -1]", "[1, 4294967301]", "[1, 18446744073709551615]"}) {
    expect_failure(run({"score", "--model", at("model"), "--ids", "--file", with(line)}), 2, "id");
    expect_failure(run({"tokenize", "--model", at("model"), "--decode", "--file", with(line)}), 2, "id");
  }
  for (const char* line : {"[1.5]", "[\"a\"]", "{}", "7"}) {
    EXPECT_TRUE(says(run({"score", "--model", at("model"), "--ids", "--file", with(line)}).err, "bad_ids.txt:1")) << line;
    EXPECT_EQ(run({"tokenize", "--model", at("model"), "--decode", "--file", with(line)}).code, 2) << line;
  }
  EXPECT_EQ(run({"score", "--model", at("model"), "--ids", "--file", with("[1, 2")}).code, 1);
  EXPECT_EQ(run({"score", "--model", at("model"), "--ids", "--file", with("[1, " + std::string(100000, '['))}).code, 1);
}

TEST_F(Program, TokenizeThereAndBack) {
  const std::vector<std::string> texts{"Once upon a time", "", "  two  spaces ", "line\nbreak\ttab", "日本語 🙂", "quote \" and \\ slash"};
  std::string jsonl;
  for (const auto& t : texts) jsonl += Json(t).dump() + "\n";
  work_->write("texts.jsonl", jsonl);
  const Result ids = run({"tokenize", "--model", at("model"), "--file", at("texts.jsonl"), "--jsonl"});
  ASSERT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(ids.err, "");
  work_->write("texts.ids", ids.out);
  const Result back = run({"tokenize", "--model", at("model"), "--file", at("texts.ids"), "--jsonl", "--decode"});
  ASSERT_EQ(back.code, 0) << back.err;
  const auto lines = lines_of(back.out);
  ASSERT_EQ(lines.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(parse_json(lines[i], "decoded").get<std::string>(), texts[i]);
  // A directory that holds only a tokenizer; plain lines; special tokens on request.
  copy_small_tokenizer(*work_ / "only");
  const Result plain = run({"tokenize", "--model", at("only"), "--file", at("lines.txt")}), special = run({"tokenize", "--model", at("only"), "--file", at("lines.txt"), "--add-special"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(lines_of(plain.out).size(), 3u);
  EXPECT_EQ(lines_of(plain.out)[1], "[]");
  EXPECT_EQ(lines_of(special.out)[1], "[1]");
  EXPECT_EQ(run({"tokenize", "--model", at("model"), "--file", at("lines.txt"), "--jsonl"}).code, 1);
}

TEST_F(Program, GenerateIsAFunctionOfItsSeed) {
  const auto generate = [&](std::vector<std::string> more) {
    std::vector<std::string> all{"generate", "--model", at("model"), "--prompt", "Once upon", "--max-new-tokens", "24"};
    all.insert(all.end(), more.begin(), more.end());
    const Result r = run(all);
    EXPECT_EQ(r.code, 0) << r.err;
    return r.out;
  };
  EXPECT_EQ(generate({}), generate({}));
  EXPECT_EQ(generate({"--seed", "1"}), generate({"--seed", "2"}));  // greedy
  const std::string one = generate({"--temperature", "1", "--seed", "1"});
  EXPECT_EQ(one, generate({"--temperature", "1", "--seed", "1"}));
  EXPECT_NE(one, generate({"--temperature", "1", "--seed", "2"}));
  EXPECT_EQ(generate({"--temperature", "1", "--top-k", "1"}), generate({}));
  EXPECT_EQ(generate({"--temperature", "1", "--top-p", "0"}), generate({}));
  EXPECT_EQ(generate({"--temperature", "1", "--seed", "-1"}), generate({"--temperature", "1", "--seed", "-1"}));
  const Json json = parse_json(generate({"--json"}), "generate");
  EXPECT_EQ(json["text"].get<std::string>() + "\n", generate({}));
  EXPECT_LE(json["ids"].size(), 24u);
  EXPECT_TRUE(json.contains("stopped"));
  EXPECT_GT(json["tokens_per_second"].get<double>(), 0);
}

TEST_F(Program, GenerateBeyondReason) {
  // Room is taken as the text grows, not for the most that was allowed.
  const Result r = run({"generate", "--model", at("model"), "--prompt", "", "--max-new-tokens", "16777216"});
  EXPECT_EQ(r.code, 0) << r.err;
  const Result chat = run({"generate", "--model", at("model"), "--prompt", "Hi", "--chat", "--max-new-tokens", "4"});
  expect_failure(chat, 2, "no chat template");
  EXPECT_EQ(run({"generate", "--model", at("model"), "--prompt", "Hi", "--template", "alpaca", "--max-new-tokens", "4"}).code, 0);
}

TEST_F(Program, WeightsThatAreNotNumbersAreFound) {
  make_small_model(*work_ / "nan");
  std::string bytes = read_file(*work_ / "nan/model.safetensors");
  const uint32_t nan = 0x7FC00000u;
  for (size_t at = bytes.size() - 4 * 32 * 64; at + 4 <= bytes.size(); at += 4) std::memcpy(&bytes[at], &nan, 4);
  write_file(*work_ / "nan/model.safetensors", bytes);
  expect_failure(run({"score", "--model", at("nan"), "--file", at("lines.txt")}), 1, "finite");
  expect_failure(run({"generate", "--model", at("nan"), "--prompt", "x", "--max-new-tokens", "3"}), 1, "finite");
  const Result r = run({"train", "model_name_or_path=" + at("nan"), "dataset=" + at("data.jsonl"), "template=default", "max_steps=2", "output_dir=" + at("nan_out")});
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_TRUE(says(r.err, "not finite")) << r.err;
  EXPECT_TRUE(says(r.err, "data.jsonl:")) << r.err;
}

TEST_F(Program, EvaluationTakesTheConfigurationOfARun) {
  const std::string eval_file = work_->write("asked.jsonl", small_alpaca(3)).string(), other = work_->write("other.jsonl", small_alpaca(2)).string();
  const std::string config = work_->write("predict.yaml", "model_name_or_path: " + at("model") + "\neval_dataset: " + eval_file + "," + other +
                                                              "\ntemplate: default\ndo_predict: true\npredict_with_generate: true\nmax_new_tokens: 3\noutput_dir: " + at("predicted") + "\n").string();
  work_->write("predicted/eval_results.json", R"({"eval_loss": 1.5})");
  const Result r = run({"eval", config, "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json json = parse_json(r.out, "eval");
  EXPECT_EQ(json["questions"], 5);
  EXPECT_EQ(json["model"], at("model"));
  EXPECT_EQ(json["data_sets"]["other"]["questions"], 2);
  for (const char* score : {"exact_match", "f1", "rouge_1", "rouge_2", "rouge_l", "bleu_4", "corpus_bleu_4"}) EXPECT_TRUE(json[score].is_number()) << score;
  EXPECT_EQ(lines_of(read_file(at("predicted/generated_predictions.jsonl"))).size(), 5u);
  // What training left in the file stays.
  const Json written = read_json(at("predicted/eval_results.json"));
  EXPECT_EQ(written["eval_loss"], 1.5);
  EXPECT_EQ(written["exact_match"], json["exact_match"]);
  expect_failure(run({"eval", "--model", at("model")}), 2, "--file is missing");
  expect_failure(run({"eval"}), 2, "or a configuration");
  // Without answers there is still the loss.
  const Result losses = run({"eval", config, "predict_with_generate=false", "--json"});
  EXPECT_EQ(losses.code, 0) << losses.err;
  EXPECT_GT(parse_json(losses.out, "losses").value("perplexity", 0.0), 1.0);
  expect_failure(run({"train", config}), 2, "dataset is missing");
  // Nothing was asked: what stands there are still the answers of before.
  EXPECT_EQ(lines_of(read_file(at("predicted/generated_predictions.jsonl"))).size(), 5u);
}

TEST_F(Program, EvaluationRefusesATokenizerThatIsNotTheModels) {
  Json config = small_llama_config();
  config["vocab_size"] = 40;
  make_small_model(*work_ / "small", config);
  const std::string asked = work_->write("asked.jsonl", small_alpaca(3)).string();
  expect_failure(run({"eval", "model_name_or_path=" + at("small"), "eval_dataset=" + asked, "template=default", "predict_with_generate=false", "output_dir=" + at("none")}), 2,
                 "has only 40 embedding rows");
  expect_failure(run({"eval", "--model", at("small"), "--file", asked, "--template", "default"}), 2, "has only 40 embedding rows");
}

TEST_F(Program, DataValidateStatsInspect) {
  const std::vector<std::string> settings{"model_name_or_path=" + at("model"), "template=default", "cutoff_len=96"};
  const auto data = [&](const char* verb, const std::string& file, std::vector<std::string> more = {}) {
    std::vector<std::string> all{"data", verb, "dataset=" + file};
    all.insert(all.end(), settings.begin(), settings.end());
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const Result good = data("validate", at("data.jsonl"));
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(good.out, "");
  const std::string mixed = work_->write("mixed.jsonl", small_alpaca(3) + "{oops\n{\"instruction\":\"q\"}\n").string();
  const Result bad = data("validate", mixed);
  EXPECT_EQ(bad.code, 1);
  EXPECT_TRUE(says(bad.out, "mixed.jsonl:4: dropped: not valid JSON")) << bad.out;
  EXPECT_TRUE(says(bad.out, "mixed.jsonl:5: dropped: \"output\" is missing")) << bad.out;
  const auto rows = lines_of(data("validate", mixed, {"--json"}).out);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(parse_json(rows[0], "report")["action"], "dropped");
  const Json stats = parse_json(data("stats", mixed, {"--json"}).out, "stats");
  EXPECT_EQ(stats["rows"], 5);
  EXPECT_EQ(stats["samples"], 3);
  EXPECT_EQ(stats["dropped"], 2);
  EXPECT_GT(stats["labelled_tokens"].get<int64_t>(), 0);
  EXPECT_EQ(stats["data_sets"]["mixed"]["samples"], stats["samples"]);
  // A file by itself needs no model; where nothing can be used, every row still says why.
  work_->write("hopeless.jsonl", "{}\n{\"prompt\":\"q\"}\n");
  const Result alone = run({"data", "validate", "--file", at("hopeless.jsonl")});
  EXPECT_EQ(alone.code, 1);
  EXPECT_TRUE(says(alone.out, "hopeless.jsonl:1: dropped")) << alone.out;
  EXPECT_TRUE(says(alone.out, "hopeless.jsonl:2: dropped")) << alone.out;
  EXPECT_EQ(run({"data", "validate", "--file", at("data.jsonl")}).code, 0);
  const Result converted = run({"data", "convert", at("data.jsonl"), "--to", "messages"});
  EXPECT_EQ(converted.code, 0);
  EXPECT_EQ(lines_of(converted.out).size(), 20u);
  expect_failure(run({"data", "convert", at("data.jsonl"), "--to", "xml"}), 2, "known are alpaca");
  EXPECT_EQ(data("inspect", at("data.jsonl"), {"--row", "7", "--html", at("page.html")}).code, 0);
  EXPECT_TRUE(says(read_file(at("page.html")), "data.jsonl:7"));
  EXPECT_EQ(lines_of(data("inspect", at("data.jsonl"), {"--row", "7", "--json"}).out).size(), 1u);
  expect_failure(data("inspect", at("data.jsonl"), {"--row", "700"}), 2, "--row");
  const Result shown = data("inspect", at("data.jsonl"), {"--count", "1"});
  EXPECT_TRUE(says(shown.out, "[[The cat was happy.")) << shown.out;
  const auto inspected = lines_of(data("inspect", at("data.jsonl"), {"--json", "--count", "2"}).out);
  ASSERT_EQ(inspected.size(), 2u);
  const Json row = parse_json(inspected[0], "inspect");
  EXPECT_EQ(row["ids"].size(), row["weights"].size());
  EXPECT_EQ(row["ids"].size(), row["tokens"].size());
  expect_failure(data("stats", at("data.jsonl"), {"cutoff_len=4"}), 2, "duplicate key cutoff_len");
}

TEST_F(Program, AbsurdConfigurationsAreRefusedWithoutTakingMemory) {
  const auto init = [&](const std::string& key, const Json& value) {
    Json config = small_llama_config();
    config[key] = value;
    work_->write("absurd.json", config.dump());
    return run({"init", "--config", at("absurd.json"), "--out", at("absurd_out")});
  };
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{
           {"hidden_size", -1}, {"hidden_size", 0}, {"hidden_size", 1e300}, {"hidden_size", "32"}, {"hidden_size", nullptr}, {"vocab_size", int64_t{1} << 60},
           {"num_hidden_layers", 5000}, {"num_attention_heads", 0}, {"num_key_value_heads", 3}, {"head_dim", 7}, {"rms_norm_eps", -1}, {"rope_theta", 0}}) {
    const Result r = init(key, value);
    EXPECT_EQ(r.code, 2) << key << value << r.err;
    EXPECT_TRUE(says(r.err, key)) << r.err;
  }
  // Each number is allowed, all of them together are not: petabytes.
  Json config = small_llama_config();
  for (const char* key : {"hidden_size", "intermediate_size", "vocab_size"}) config[key] = 1 << 23;
  config["num_hidden_layers"] = 512;
  work_->write("absurd.json", config.dump());
  const Result r = run({"init", "--config", at("absurd.json"), "--out", at("absurd_out")});
  EXPECT_TRUE(r.code == 1 || r.code == 2) << r.code << r.err;
  EXPECT_TRUE(says(r.err, "error: ")) << r.err;
  EXPECT_LT(r.seconds, 20);
  EXPECT_FALSE(fs::exists(at("absurd_out")));
  // The weights of the directory do not match it: said before anything large happens.
  make_small_model(*work_ / "huge");
  work_->write("huge/config.json", config.dump());
  const Result g = run({"generate", "--model", at("huge"), "--prompt", "x"});
  EXPECT_TRUE(g.code == 1 || g.code == 2) << g.code << g.err;
  EXPECT_LT(g.seconds, 20);
}

TEST_F(Program, DamagedModelFilesAreErrorsNotCrashes) {
  make_small_model(*work_ / "broken");
  const std::string intact = read_file(*work_ / "broken/model.safetensors");
  const auto expect_error = [&](const char* what) {
    const Result r = run({"score", "--model", at("broken"), "--file", at("lines.txt")});
    EXPECT_TRUE(r.code == 1 || r.code == 2) << what << r.code << r.err;
    EXPECT_TRUE(says(r.err, "error: ")) << what << r.err;
  };
  work_->write("broken/model.safetensors", intact.substr(0, intact.size() - 100));
  expect_error("cut");
  work_->write("broken/model.safetensors", "");
  expect_error("empty");
  work_->write("broken/model.safetensors", std::string(4096, '\xff'));
  expect_error("noise");
  fs::remove(*work_ / "broken/model.safetensors");
  expect_error("missing");
  work_->write("broken/model.safetensors", intact);
  for (const std::string& config : {std::string("["), std::string("[]"), std::string(200000, '['), std::string("{\"a\":") + std::string(200000, '{'), std::string(), std::string("\x00\xff", 2)}) {
    work_->write("broken/config.json", config);
    expect_error("config");
  }
  work_->write("broken/config.json", small_llama_config().dump());
  for (const std::string& generation : {std::string("{"), std::string("[]"), std::string("{\"eos_token_id\":{\"a\":1}}"), std::string("{\"eos_token_id\":99999999999}")}) {
    work_->write("broken/generation_config.json", generation);
    const Result r = run({"generate", "--model", at("broken"), "--prompt", "x", "--max-new-tokens", "2"});
    EXPECT_TRUE(r.code == 0 || r.code == 1) << generation << r.err;
  }
}

TEST_F(Program, BenchStepsOfTheGivenModelAndRefusesWhatDoesNotFit) {
  const Result r = run({"bench", std::string("model_name_or_path=" ATTUNE_FIXTURES "/models/qwen2_tiny"), "cutoff_len=16", "--steps", "1", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json step = parse_json(r.out, "bench")["step"];
  EXPECT_TRUE(says(step["model"].get<std::string>(), "4 x 16 tokens"));
  const Result large = run({"bench", "per_device_train_batch_size=4000", "cutoff_len=32768", "gradient_checkpointing=none"});
  EXPECT_EQ(large.code, 2);
  EXPECT_TRUE(says(large.err, "more than 4 TB")) << large.err;
  const Result swapping = run({"bench", "per_device_train_batch_size=100", "cutoff_len=32768"});
  EXPECT_EQ(swapping.code, 2);
  EXPECT_TRUE(says(swapping.err, "are available: try pure_bf16=true")) << swapping.err;
}

TEST_F(Program, DoctorAnswersInJson) {
  const Result r = run({"doctor", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json json = parse_json(r.out, "doctor");
  for (const char* key : {"processor", "threads", "instruction_sets", "memory_bytes", "available_memory_bytes", "bf16_hardware", "calibration", "advice"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_GT(json["calibration"]["fp32_tflops"].get<double>(), 0);
}

}  // namespace
}  // namespace attune
