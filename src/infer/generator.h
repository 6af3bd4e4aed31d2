// Generation and scoring with the training model's own blocks and weights.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace attune::infer {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0;  // 0: the likeliest token each time
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  uint64_t seed = 42;
  std::vector<int32_t> stop_ids;
};

struct Generation {
  std::vector<int32_t> ids;  // without the token that ended it
  bool stopped = false;      // by a stop token rather than by length
};

class Generator {
 public:
  // Loads weights as `compute`, and the tokenizer. `positions`: longest prompt and answer together.
  Generator(const std::string& directory, DType compute);
  ~Generator();

  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  models::Decoder& model() { return *model_; }

  // Tokens that end an answer: eos of tokenizer, config.json and generation_config.json, and `more` texts where each
  // is one token.
  std::vector<int32_t> stop_ids(const std::vector<std::string>& more = {}) const;

  // `on_token` sees each token as it comes; may be empty.
  Generation generate(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                      const std::function<void(int32_t)>& on_token = {});

  // −log p of each token given those before: one fewer than `ids`.
  std::vector<float> score(const std::vector<int32_t>& ids);

 private:
  // Logits behind `ids`, of which the cache holds the first cache.length; it then holds all of them.
  Tensor forward_last(const std::vector<int32_t>& ids, models::KvCache& cache);
  void check_prompt(const std::vector<int32_t>& ids) const;
  void ensure_positions(int64_t positions);

  std::string directory_;
  DType compute_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<models::Decoder> model_;
  std::vector<int64_t> generation_eos_;
  std::unique_ptr<Arena> arena_, cache_memory_;
  std::unique_ptr<ops::Context> context_;
  std::unique_ptr<nn::StepHooks> hooks_;
  std::unique_ptr<nn::Tape> tape_;
  int64_t positions_ = 0;
};

}  // namespace attune::infer
