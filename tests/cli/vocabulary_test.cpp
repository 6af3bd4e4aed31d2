// add_tokens, add_special_tokens and resize_vocab as a user meets them: in full runs and with adapters.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "formats/model_directory.h"
#include "program.h"
#include "text/tokenizer.h"

namespace attune {
namespace {

using namespace test;
using Floats = std::vector<float>;

class VocabularyRun : public ::testing::Test {
 protected:
  static constexpr int64_t kWidth = 32;
  Workspace work;
  std::string data = work.write("data.jsonl", rows()).string();
  const std::vector<std::string> tokens{"add_tokens=GlucoTab,big red ball", "add_special_tokens=<|tool|>"};

  static std::string rows() {
    std::string out = small_alpaca(16);
    for (int i = 0; i < 8; ++i) out += dump_json({{"instruction", "What is GlucoTab?"}, {"output", fmt::format("<|tool|> GlucoTab is the big red ball {}.", i)}}) + "\n";
    return out;
  }
  static Json config(int64_t vocabulary, bool tied) {
    Json c = small_llama_config();
    c["vocab_size"] = vocabulary;
    c["tie_word_embeddings"] = tied;
    return c;
  }
  Result train(const std::string& base, const std::string& out, std::vector<std::string> more, const std::string& command = "train") const {
    std::vector<std::string> args{command, "model_name_or_path=" + base, "dataset=" + data, "template=default", "cutoff_len=96", "per_device_train_batch_size=4",
                                  "learning_rate=0.001", "max_steps=4", "save_steps=2", "token_cache=false", "output_dir=" + (work / out).string()};
    more.insert(more.end(), tokens.begin(), tokens.end());
    for (const std::string& setting : more) {
      std::erase_if(args, [&](const std::string& a) { return a.starts_with(setting.substr(0, setting.find('=') + 1)); });
      args.push_back(setting);
    }
    return run(args);
  }
  static Floats table(const fs::path& model, const std::string& name) {
    formats::ModelDirectory directory(model);
    const auto& [file, info] = directory.tensors().at(name);
    Floats out(static_cast<size_t>(info->count()));
    file->read(*info, DType::f32, out.data());
    return out;
  }
  static Floats row(const Floats& table, int64_t id) { return {table.begin() + id * kWidth, table.begin() + (id + 1) * kWidth}; }
  static Floats mean(const Floats& table, const std::vector<int32_t>& ids) {
    Floats out(kWidth);
    for (int32_t id : ids)
      for (int64_t j = 0; j < kWidth; ++j) out[static_cast<size_t>(j)] += table[static_cast<size_t>(id * kWidth + j)] / static_cast<float>(ids.size());
    return out;
  }
  static void expect_near(const Floats& a, const Floats& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << i;
  }
  std::vector<double> nll(const std::string& model, const std::string& adapters = "") {
    const std::string text = work.write("text.txt", "GlucoTab is the big red ball, said <|tool|>.\n").string();
    std::vector<std::string> args{"score", "--model", model, "--file", text};
    if (!adapters.empty()) args.insert(args.end(), {"--adapter", adapters});
    const Result r = run(args);
    EXPECT_EQ(r.code, 0) << r.err;
    const Json json = parse_json(lines_of(r.out).at(0), "score");
    EXPECT_NE(json["ids"].dump().find("512"), std::string::npos) << json["ids"];
    return json["nll"].get<std::vector<double>>();
  }
  static double furthest(const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b.at(i)));
    return most;
  }
};

TEST_F(VocabularyRun, TablesGrowAndNewRowsBeginAsTheMeanOrTheirSubtokens) {
  for (bool tied : {false, true})
    for (const std::string how : {"mean", "subtokens"}) {
      const std::string name = how + (tied ? "_tied" : ""), base = make_small_model(work / ("base_" + name), config(512, tied)).string();
      const Result r = train(base, name, {"resize_vocab=true", "learning_rate=0", "init_special_tokens=" + how});
      ASSERT_EQ(r.code, 0) << r.err;
      EXPECT_NE(r.err.find("from 512 to 515 rows"), std::string::npos) << r.err;
      EXPECT_EQ(read_json(work / name / "config.json")["vocab_size"], 515);
      std::vector<int32_t> all(512);
      std::iota(all.begin(), all.end(), 0);
      const auto tokenizer = text::Tokenizer::load(base);
      for (const std::string tensor : {"model.embed_tokens.weight", "lm_head.weight"}) {
        if (tied && tensor == "lm_head.weight") continue;
        const Floats before = table(base, tensor), after = table(work / name, tensor);
        ASSERT_EQ(after.size(), static_cast<size_t>(515 * kWidth));
        EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
        expect_near(row(after, 512), mean(before, how == "mean" ? all : tokenizer->encode("GlucoTab").ids));
        expect_near(row(after, 514), mean(before, how == "mean" ? all : tokenizer->encode("<|tool|>").ids));
      }
      EXPECT_EQ(text::Tokenizer::load(work / name)->token_to_id("<|tool|>"), 514);
    }
}

TEST_F(VocabularyRun, WithoutResizeVocabTheyMustFitAndThePaddingIsUsedFirst) {
  const std::string base = make_small_model(work / "base", config(512, false)).string();
  Result r = train(base, "out", {});
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("resize_vocab: true"), std::string::npos) << r.err;
  // A padded vocabulary has rows nobody uses.
  const std::string padded = make_small_model(work / "padded", config(576, false)).string();
  r = train(padded, "free", {"learning_rate=0"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_json(work / "free/config.json")["vocab_size"], 576);
  std::vector<int32_t> known(512);
  std::iota(known.begin(), known.end(), 0);
  const Floats before = table(padded, "lm_head.weight"), after = table(work / "free", "lm_head.weight");
  expect_near(row(after, 513), mean(before, known));
  EXPECT_EQ(row(after, 515), row(before, 515)) << "rows that stay free stay as they were";
}

TEST_F(VocabularyRun, AFullRunLearnsThemResumesAndIsAModelOfItsOwn) {
  const std::string base = make_small_model(work / "base", config(512, true)).string();
  ASSERT_EQ(train(base, "whole", {"resize_vocab=true"}).code, 0);
  const Result r = train(base, "part", {"resize_vocab=true", "resume_from_checkpoint=" + (work / "whole/checkpoint-2").string()});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_file(work / "part/model.safetensors"), read_file(work / "whole/model.safetensors"));
  EXPECT_FALSE(nll((work / "whole").string()).empty());
  EXPECT_EQ(run({"generate", "--model", (work / "whole").string(), "--prompt", "What is GlucoTab?", "--max-new-tokens", "4"}).code, 0);
  const Result frozen = train(base, "frozen", {"resize_vocab=true", "finetuning_type=freeze"});
  EXPECT_EQ(frozen.code, 2);
  EXPECT_NE(frozen.err.find("freeze_extra_modules"), std::string::npos) << frozen.err;
}

TEST_F(VocabularyRun, AnAdapterCarriesThemThroughResumeUseMergeAndAnotherRun) {
  for (bool tied : {false, true}) {
    const std::string t = tied ? "_tied" : "", base = make_small_model(work / ("base" + t), config(512, tied)).string(), out = (work / ("a" + t)).string();
    const std::vector<std::string> lora{"resize_vocab=true", "finetuning_type=lora", "lora_target=q_proj"};
    Result r = train(base, "a" + t, lora);
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.err.find("additional_target"), std::string::npos) << r.err;
    EXPECT_EQ(read_json(fs::path(out) / "adapter_config.json")["modules_to_save"], (Json{"embed_tokens", "lm_head"}));
    EXPECT_EQ(text::Tokenizer::load(out)->token_to_id("GlucoTab"), 512);
    auto resumed = lora;
    resumed.push_back("resume_from_checkpoint=" + out + "/checkpoint-2");
    ASSERT_EQ(train(base, "part" + t, resumed).code, 0);
    EXPECT_EQ(read_file(work / ("part" + t) / "adapter_model.safetensors"), read_file(fs::path(out) / "adapter_model.safetensors"));

    const std::string merged = (work / ("merged" + t)).string();
    r = run({"merge", "--model", base, "--adapter", out, "--out", merged});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(read_json(fs::path(merged) / "config.json")["vocab_size"], 515);
    EXPECT_EQ(text::Tokenizer::load(merged)->token_to_id("<|tool|>"), 514);
    EXPECT_LT(furthest(nll(base, out), nll(merged)), 1e-4);
    EXPECT_EQ(run({"generate", "--model", base, "--adapter", out, "--prompt", "What is GlucoTab?", "--max-new-tokens", "4"}).code, 0);

    // Continued, it needs no tokens named: the adapter has them and their tokenizer.
    r = run({"train", "model_name_or_path=" + base, "dataset=" + data, "template=default", "cutoff_len=96", "finetuning_type=lora", "max_steps=1",
             "learning_rate=0", "token_cache=false", "adapter_name_or_path=" + out, "output_dir=" + (work / ("on" + t)).string()});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_LT(furthest(nll(base, out), nll(base, (work / ("on" + t)).string())), 1e-6);
  }
}

// In what people have written a new word is one token; a new control token is none.
TEST_F(VocabularyRun, NewWordsAreFoundInTheDataAndNewControlTokensAreNot) {
  const std::string base = make_small_model(work / "base", config(512, false)).string();
  const Result shown = run({"data", "inspect", "model_name_or_path=" + base, "dataset=" + data, "template=default", "cutoff_len=96", "token_cache=false", "resize_vocab=true", tokens[0], tokens[1],
                            "output_dir=" + (work / "none").string(), "--row", "17", "--json"});
  ASSERT_EQ(shown.code, 0) << shown.err;
  const auto ids = parse_json(lines_of(shown.out).at(0), "row")["ids"].get<std::vector<int32_t>>();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 512), 2) << shown.out;  // GlucoTab, in question and answer
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 513), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 514), 0);
}

// The loss of what is held out is that of the tokens which the adapter knows.
TEST_F(VocabularyRun, EvaluationOfAnAdapterReadsWithItsTokenizer) {
  const std::string base = make_small_model(work / "base", config(512, false)).string();
  const std::vector<std::string> lora{"resize_vocab=true", "finetuning_type=lora", "lora_target=q_proj", "eval_dataset=" + data};
  ASSERT_EQ(train(base, "a", lora).code, 0);
  auto asked = lora;
  asked.insert(asked.end(), {"predict_with_generate=false"});
  const Result r = train(base, "a", asked, "eval");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NEAR(read_json(work / "a/eval_results.json")["loss"].get<double>(), read_json(work / "a/all_results.json")["eval_loss"].get<double>(), 1e-4);
}

// Rows that the base has to spare hold another token in each of them.
TEST_F(VocabularyRun, AdaptersWithTokensOfTheirOwnAreNotOneSet) {
  const std::string padded = make_small_model(work / "padded", config(576, false)).string();
  const std::vector<std::string> lora{"finetuning_type=lora", "lora_target=q_proj", "max_steps=1"};
  auto other = lora;
  other.insert(other.end(), {"add_tokens=InsuPen,small blue box", "add_special_tokens=<|tool|>"});
  ASSERT_EQ(train(padded, "one", lora).code, 0);
  ASSERT_EQ(run([&] {
              std::vector<std::string> args{"train", "model_name_or_path=" + padded, "dataset=" + data, "template=default", "cutoff_len=96", "token_cache=false", "output_dir=" + (work / "two").string()};
              args.insert(args.end(), other.begin(), other.end());
              return args;
            }()).code, 0);
  const std::vector<std::string> both{"generate", "--model", padded, "--prompt", "x", "--max-new-tokens", "1", "--adapter", (work / "one").string(), "--adapter", (work / "two").string(), "--use"};
  for (const char* use : {"one", "two"}) {
    auto args = both;
    args.emplace_back(use);
    expect_failure(run(args), 2, "which has other tokens");
  }
}

TEST_F(VocabularyRun, APlanCountsTheRowsThatAreToCome) {
  const std::string base = make_small_model(work / "base", config(512, false)).string();
  const auto weights = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args{"plan", "--json", "model_name_or_path=" + base, "dataset=" + data, "template=default", "cutoff_len=96", "token_cache=false", "output_dir=" + (work / "none").string()};
    args.insert(args.end(), more.begin(), more.end());
    const Result r = run(args);
    EXPECT_EQ(r.code, 0) << r.err;
    return parse_json(r.out, "plan")["parts"]["weights"].get<int64_t>();
  };
  const int64_t more = weights({"resize_vocab=true", tokens[0], tokens[1]}) - weights({});
  EXPECT_GE(more, 2 * 3 * kWidth * 4);
  EXPECT_LE(more, 2 * 3 * kWidth * 4 + 256);
}

}  // namespace
}  // namespace attune
