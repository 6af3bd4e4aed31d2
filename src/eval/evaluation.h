// Held-out questions → generated answers → scores, of each data set and of all.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/record.h"
#include "infer/generator.h"
#include "train/config.h"
#include "util/files.h"
#include "util/json.h"

namespace attune::eval {

// The last answer of a conversation is asked for; what stands before it, earlier answers included, is the prompt.
struct Question {
  std::vector<int32_t> prompt;
  std::string shown;       // the last user message
  std::string label;       // the reference answer, trimmed
  std::string prediction;  // trimmed; empty before `answer`
  int32_t data_set = 0;    // index into Evaluation::data_sets
};

struct AskOptions {
  std::string chat_template;  // as the key `template`
  // Complete the text in this column of each row (JSONL) instead of asking through the chat template; what is generated counts
  // up to the first sentence end.
  std::string prompt_column;
  int64_t max_new_tokens = 32;
  int64_t batch_size = 8;  // questions at a time
};

// Scores by name, in the order in which they came.
struct Scores {
  std::string data_set;  // empty: all
  int64_t questions = 0;
  std::vector<std::pair<std::string, double>> numbers;
  void set(const std::string& name, double value);
  double at(const std::string& name) const;
};

class Evaluation {
 public:
  std::vector<Question> questions;
  std::vector<std::string> data_sets;

  Scores all;
  std::vector<Scores> each;  // of each data set

  // Here numbers join that do not come from generated answers (loss, perplexity, token accuracy). `data_set` empty: all.
  void join(const std::string& data_set, const std::string& name, double value);
  // exact_match, f1, rouge_1, rouge_2, rouge_l, bleu_4, corpus_bleu_4 of `questions`; means over questions, from 0 to 1.
  void score();

  // {"exact_match": …, …, "questions": n, "data_sets": {name: {…}}}; data sets where there are several.
  Json json() const;
  // LLaMA-Factory's generated_predictions.jsonl: {prompt, predict, label}.
  std::string predictions_jsonl() const;
};

// Generates greedily and scores.
Evaluation evaluate(infer::Generator& generator, const data::Records& records, const AskOptions& options);

// What a configuration holds out: `eval_dataset`, or the rows that `val_size` chose for its training. Refuses where there is
// neither.
data::Records held_out_records(const train::Config& config);

// Which model a configuration speaks of: `output_dir` where it holds a result, else the base model.
std::string evaluated_model(const train::Config& config);
// With finetuning_type: lora and no full model there: the adapter in `output_dir`, behind those that it was trained on top of;
// without one yet, those that training would begin with.
std::vector<std::string> evaluated_adapters(const train::Config& config);

// Share of the references in `test` that equal the most frequent answer of `train`: what a parrot reaches.
double majority_baseline(const std::vector<fs::path>& train, const std::vector<fs::path>& test);

// The rows of these files, with what is wrong with them as warnings.
data::Records read_questions(const std::vector<fs::path>& files, int64_t max_samples);

}  // namespace attune::eval
