// One function a command; main.cpp turns the command line into these arguments. Results go to stdout.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace attune::cli {

struct RunArgs {  // train, plan, eval, data
  std::vector<std::string> arguments;  // [config.yaml] [key=value …]
  bool json = false;
  bool force = false;
  bool all = false;  // plan: also what else would fit
};
int train(const RunArgs& args);
int plan(const RunArgs& args);

struct ValidateArgs {
  RunArgs run;
  std::vector<std::string> files;
  std::string stage = "sft";
};
int data_validate(const ValidateArgs& args);
int data_stats(const RunArgs& args);

struct InspectArgs {
  RunArgs run;
  int64_t count = 3, row = 0;
  std::string html;
};
int data_inspect(const InspectArgs& args);

struct ConvertArgs {
  std::vector<std::string> files;
  std::string from, to, out;
};
int data_convert(const ConvertArgs& args);

struct EvalArgs {
  std::vector<std::string> adapters;  // values of --adapter (cli/arguments.h)
  std::string use;
  std::string model, chat_template, prompt_column, predictions, quantization = "none", device = "auto";
  std::vector<std::string> arguments;  // [config.yaml] [key=value …]
  std::vector<std::string> files, baseline_from;
  int64_t max_new_tokens = 0, max_samples = 0, batch_size = 0;  // 0: 32, or what the configuration says; all; 8, or the configuration
  bool json = false;
};
int evaluate(const EvalArgs& args);

struct InitArgs {
  std::string config, out, dtype = "float32", tokenizer;
  int64_t seed = 42;
};
int init(const InitArgs& args);

// What generate and chat have in common. Empty: not given.
struct SamplingArgs {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_new_tokens;
  int64_t seed = 42, num_beams = 1;
  std::vector<std::string> stop;
  bool generation_config = false;
};

struct GenerateArgs {
  std::vector<std::string> adapters;
  std::string use;
  std::string model, chat_template, system, compute = "float32", quantization = "none", device = "auto";
  std::optional<std::string> prompt;
  SamplingArgs sampling;
  bool chat = false, json = false;
  // Of many prompts.
  std::string file, out;
  int64_t batch_size = 8, samples = 1;
  bool resume = false;
};
int generate(const GenerateArgs& args);

struct ChatArgs {
  std::vector<std::string> adapters;
  std::string use;
  std::string model, chat_template, system, compute = "float32", quantization = "none", device = "auto";
  SamplingArgs sampling;
};
int chat(const ChatArgs& args);

struct ScoreArgs {
  std::vector<std::string> adapters;
  std::string use;
  std::string model, file, compute = "float32", quantization = "none", device = "auto", chat_template;
  bool ids = false, reward = false;
};
int score(const ScoreArgs& args);
int reward(const ScoreArgs& args);  // score --reward

struct MergeArgs {
  std::vector<std::string> adapters;
  std::string use;
  std::string model, out, dtype = "auto", file, base, quantization;  // base: empty, 16bit, dequantized
  bool check = true;
};
int merge(const MergeArgs& args);

struct TokenizeArgs {
  std::string model, file;
  bool jsonl = false, add_special = false, decode = false;
};
int tokenize(const TokenizeArgs& args);

struct TokenizerTrainArgs {
  std::vector<std::string> files, special_tokens;
  std::string out, pattern = "qwen2", eos, bos, pad, chat_template;
  int64_t vocab_size = 6400, min_frequency = 2;
};
int tokenizer_train(const TokenizerTrainArgs& args);

struct RunsCompareArgs {
  std::vector<std::string> directories;
  bool json = false, markdown = false;
};
int runs_compare(const RunsCompareArgs& args);

struct BenchArgs {
  RunArgs run;
  int steps = 3;
};
int bench(const BenchArgs& args);

int doctor(bool json);

}  // namespace attune::cli
