// Generation and scoring with a decoder whose weights belong to somebody else (a training run, a Generator): token ids in,
// token ids out.
//
// A batch is one flat stream. What its sequences have in common runs as one product for all of them; each attends to its own
// part of the cache. A sequence that ends makes room for the next at once. What a sequence gets does not depend on the others.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "infer/sampler.h"
#include "models/decoder.h"
#include "ops/backend.h"

namespace attune::infer {

struct GenerateOptions : SampleOptions {
  int64_t max_new_tokens = 128;
  int64_t max_length = 0;  // prompt and answer together; 0: unlimited
  int64_t batch_size = 8;  // sequences at a time
  std::vector<int32_t> stop_ids;
};

struct Prompt {
  std::vector<int32_t> ids;
  uint64_t sample = 0;  // sampling is a function of (seed, sample, position)
};

struct Generation {
  std::vector<int32_t> ids;  // without the token that ended it
  bool stopped = false;      // by a stop token or the listener rather than by length
};

// Both may be empty. `prompt` is the index of the prompt in the batch.
struct Listener {
  std::function<bool(size_t prompt, int32_t id)> on_token;                 // each token as it comes; false ends the sequence
  std::function<void(size_t prompt, const Generation& answer)> on_answer;  // as sequences end, in whatever order
};

// A text whose keys and values stay from one call to the next.
struct KeptText {
  std::vector<int32_t> ids;  // that the cache holds
  int64_t capacity = 0;
  std::unique_ptr<Arena> memory;
  models::KvCache cache;
};

class Session {
 public:
  // Activations are `compute`; `name` is what messages call the model. Of the model only its position tables change: they
  // grow where a text is longer than what they are for.
  Session(models::Decoder& model, DType compute, std::string name);
  ~Session();

  models::Decoder& model() { return model_; }

  // Refuses empty prompts, ids that do not exist, and several at a time that do not fit into memory: the cache takes
  // batch_size times the longest prompt plus max_new_tokens.
  std::vector<Generation> generate_batch(std::span<const Prompt> prompts, const GenerateOptions& options, const Listener& listener = {});
  Generation generate(const std::vector<int32_t>& prompt, const GenerateOptions& options, const Listener& listener = {});

  // Room for a text of `capacity` tokens; pages are taken as it grows.
  KeptText keep(int64_t capacity) const;
  // As generate; runs only what `kept` does not hold from its beginning, and leaves prompt and answer there.
  Generation generate(KeptText& kept, const Prompt& prompt, const GenerateOptions& options, const Listener& listener = {});

  // −log p of each token given those before: one fewer than `ids`.
  std::vector<float> score(const std::vector<int32_t>& ids);
  // What a model that scores sequences (DecoderConfig::num_labels) says of the text as a whole.
  std::vector<float> sequence_scores(const std::vector<int32_t>& ids);
  // Logits behind each token, [ids, vocabulary] row by row.
  std::vector<float> logits(const std::vector<int32_t>& ids);

  // Tokens that generation has put through the model.
  int64_t tokens_run() const { return tokens_run_; }

 private:
  struct Slot;
  void check_prompt(const std::vector<int32_t>& ids) const;
  void check_ids(const std::vector<int32_t>& ids) const;
  void check_memory(uint64_t bytes, const std::string& what) const;
  void ensure_positions(int64_t positions);
  struct Alone;
  Tensor forward(std::span<Slot> slots, models::KvCache& cache);
  bool choose(Slot& slot, std::span<float> logits, const GenerateOptions& options, const Listener& listener) const;

  models::Decoder& model_;
  DType compute_;
  std::string name_;
  std::unique_ptr<Arena> arena_, inputs_;
  std::unique_ptr<ops::Context> context_;
  std::unique_ptr<nn::StepHooks> hooks_;
  std::unique_ptr<nn::Tape> tape_;
  int64_t tokens_run_ = 0;
};

// What generate_batch takes at most, in bytes: cache and workspace of `sequences` at a time, of prompts up to `prompt` tokens.
uint64_t generation_bytes(models::Decoder& model, DType compute, int64_t sequences, int64_t prompt, int64_t max_new_tokens,
                          const ops::Backend& backend = ops::cpu_backend());

// The longest text the model was made for: max_position_embeddings, times the factor of a rotary scaling that extends it;
// 0 where it is not known.
int64_t context_length(const models::DecoderConfig& config);

}  // namespace attune::infer
