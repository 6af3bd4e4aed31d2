// A model directory that answers: weights, tokenizer, and a Session over them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "infer/session.h"
#include "models/adapter_set.h"
#include "ops/backend.h"
#include "text/tokenizer.h"

namespace attune::infer {

class Generator {
 public:
  // Loads weights as `compute`, those of the layers as `quantization` where it is on, and the tokenizer. The tokenizer and template of the last adapter of a
  // chain, of the first that is chosen of a set, win over the base's. Refuses a set whose tokenizers have other tokens.
  Generator(const std::string& directory, DType compute, const models::AdapterRequest& adapters = {}, const Quantization& quantization = {},
            const ops::Backend& backend = ops::cpu_backend());
  ~Generator();

  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  // Where it was read from: the base's directory or an adapter's.
  const std::string& tokenizer_directory() const { return tokenizer_directory_; }
  models::Decoder& model() { return *model_; }
  Session& session() { return *session_; }
  // Adapters that can be chosen; nullptr where there are none. A KeptText of before no longer holds what the model would say.
  models::AdapterSet* adapters() { return adapters_.get(); }

  // Tokens that end an answer: eos of tokenizer, config.json and generation_config.json, and `more` texts where each
  // is one token.
  std::vector<int32_t> stop_ids(const std::vector<std::string>& more = {}) const;

  Generation generate(const std::vector<int32_t>& prompt, const GenerateOptions& options, const Listener& listener = {}) {
    return session_->generate(prompt, options, listener);
  }
  std::vector<Generation> generate_batch(std::span<const Prompt> prompts, const GenerateOptions& options, const Listener& listener = {}) {
    return session_->generate_batch(prompts, options, listener);
  }
  std::vector<float> score(const std::vector<int32_t>& ids) { return session_->score(ids); }

 private:
  std::string tokenizer_directory_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<models::Decoder> model_;
  std::unique_ptr<models::AdapterSet> adapters_;
  std::vector<int64_t> generation_eos_;
  std::unique_ptr<Session> session_;
};

}  // namespace attune::infer
