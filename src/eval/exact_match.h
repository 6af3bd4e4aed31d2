// Exact match: the answer generated greedily equals the reference, apart from surrounding white space.
#pragma once

#include <string>
#include <vector>

#include "infer/generator.h"
#include "util/files.h"

namespace attune::eval {

struct Question {
  std::vector<int32_t> prompt;
  std::string text, reference;
};

struct ExactMatchOptions {
  std::string chat_template;  // as the key `template`
  // Complete the text in this column of each row instead of asking through the chat template; what is generated counts
  // up to the first sentence end.
  std::string prompt_column;
  int64_t max_new_tokens = 32;
  int64_t max_samples = 0;
};

struct ExactMatchResult {
  int64_t questions = 0, matches = 0;
  std::vector<std::string> prompts, predictions, references;
  double rate() const { return questions ? static_cast<double>(matches) / static_cast<double>(questions) : 0; }
};

ExactMatchResult exact_match(infer::Generator& generator, const std::vector<fs::path>& files, const ExactMatchOptions& options);

// Share of the references in `test` that equal the most frequent answer of `train`: what a parrot reaches.
double majority_baseline(const std::vector<fs::path>& train, const std::vector<fs::path>& test);

}  // namespace attune::eval
