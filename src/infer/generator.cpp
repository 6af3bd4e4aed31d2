#include "infer/generator.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "infer/sampler.h"
#include "models/load.h"
#include "ops/backend.h"
#include "util/error.h"
#include "util/machine.h"

namespace attune::infer {
namespace {

// Address space; pages are taken as needed.
constexpr uint64_t kReserve = uint64_t{1} << 38;
Tensor over(const std::vector<int32_t>& v) {
  return Tensor::vector(const_cast<int32_t*>(v.data()), DType::i32, static_cast<int64_t>(v.size()));
}

}  // namespace

Generator::Generator(const std::string& directory, DType compute) : directory_(directory), compute_(compute) {
  formats::ModelDirectory files(directory);
  model_ = models::declare(files);
  tokenizer_ = text::Tokenizer::load(directory);
  double bytes = 0;
  for (const auto& p : model_->parameters().all()) {
    double n = static_cast<double>(size_of(compute));
    for (int64_t s : p->shape) n *= static_cast<double>(s);
    bytes += n;
  }
  if (bytes > static_cast<double>(available_memory_bytes()))
    fail("{}: the weights take {:.1f} GB in this precision, {} are available", directory, bytes / 1e9, format_bytes(available_memory_bytes()));
  model_->parameters().allocate_weights(Arena::Kind::real, compute);
  models::load_weights(*model_, files);
  for (const auto& p : model_->parameters().all()) p->trainable = false;
  const fs::path generation = fs::path(directory) / "generation_config.json";
  if (fs::exists(generation)) {
    const Json json = read_json(generation);
    if (json.is_object() && json.contains("eos_token_id"))
      for (const Json& id : json["eos_token_id"].is_array() ? json["eos_token_id"] : Json::array({json["eos_token_id"]}))
        if (id.is_number_integer()) generation_eos_.push_back(id.get<int64_t>());
  }
  arena_ = std::make_unique<Arena>(Arena::Kind::real, kReserve);
  context_ = std::make_unique<ops::Context>(ops::cpu_backend(), *arena_);
  hooks_ = std::make_unique<nn::StepHooks>();
  tape_ = std::make_unique<nn::Tape>(*context_, *hooks_);
}

Generator::~Generator() = default;

std::vector<int32_t> Generator::stop_ids(const std::vector<std::string>& more) const {
  std::vector<int32_t> ids;
  const auto add = [&](int64_t id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<int32_t>(id));
  };
  if (tokenizer_->eos_id()) add(*tokenizer_->eos_id());
  for (int64_t id : model_->config().eos_token_ids) add(id);
  for (int64_t id : generation_eos_) add(id);
  for (const std::string& text : more)
    if (const auto id = tokenizer_->token_to_id(text)) add(*id);
  return ids;
}

void Generator::check_prompt(const std::vector<int32_t>& ids) const {
  if (ids.empty()) refuse("the prompt is empty and the tokenizer has no token to begin with");
  for (int32_t id : ids)
    if (id < 0 || id >= model_->config().vocab_size)
      refuse("{}: token id {} lies outside of the model's vocabulary of {}", directory_, id, model_->config().vocab_size);
}

void Generator::ensure_positions(int64_t positions) {
  if (positions <= positions_) return;
  positions_ = std::max<int64_t>(positions, std::max<int64_t>(512, 2 * positions_));
  model_->prepare(Arena::Kind::real, positions_);
}

Tensor Generator::forward_last(const std::vector<int32_t>& ids, models::KvCache& cache) {
  if (!model_->cache_keeps(cache.length, static_cast<int64_t>(ids.size()))) cache.length = 0;
  const std::vector<int32_t> tokens(ids.begin() + cache.length, ids.end());
  const auto n = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> positions(tokens.size());
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(cache.length + static_cast<int64_t>(i));
  const std::vector<int32_t> cu{0, static_cast<int32_t>(n)}, keys{0, static_cast<int32_t>(cache.length + n)};
  nn::Stream stream;
  stream.rows = Rows::exactly(n);
  stream.tokens = over(tokens);
  stream.positions = over(positions);
  stream.cu_seqlens = over(cu);
  stream.cu_keys = over(keys);
  stream.max_seqlen = n;
  stream.past = cache.length;
  models::ForwardOptions options;
  options.cache = &cache;
  tape_->begin(false);
  nn::Value hidden = model_->forward(*tape_, stream, compute_, options);
  cache.length += n;
  return model_->head().logits(*context_, hidden->value.slice(n - 1, 1));
}

Generation Generator::generate(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                               const std::function<void(int32_t)>& on_token) {
  check_prompt(prompt);
  const int64_t capacity = static_cast<int64_t>(prompt.size()) + options.max_new_tokens;
  const auto& c = model_->config();
  const uint64_t bytes = static_cast<uint64_t>(2 * c.num_hidden_layers * (capacity * c.num_key_value_heads * c.head_dim + 64)) * size_of(compute_);
  if (!cache_memory_ || cache_memory_->capacity() < bytes) cache_memory_ = std::make_unique<Arena>(Arena::Kind::real, bytes + bytes / 2);
  cache_memory_->release(0);
  models::KvCache cache = model_->make_cache(*cache_memory_, capacity, compute_);
  Generation out;
  std::vector<int32_t> ids = prompt;
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    ArenaScope scope(*arena_);
    // Tables grow with the text: the most that is allowed is seldom reached.
    ensure_positions(static_cast<int64_t>(ids.size()));
    const Tensor logits = forward_last(ids, cache);
    if (!std::all_of(logits.as<float>(), logits.as<float>() + c.vocab_size, [](float x) { return std::isfinite(x); }))
      fail("{}: the logits behind token {} are not finite: the weights are damaged, or too large for this precision", directory_, cache.length);
    const int32_t id = sample(logits.as<float>(), c.vocab_size, options.temperature, options.top_k, options.top_p, options.seed,
                              static_cast<uint64_t>(cache.length));
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      out.stopped = true;
      break;
    }
    out.ids.push_back(id);
    if (on_token) on_token(id);
    ids.push_back(id);
  }
  return out;
}

std::vector<float> Generator::score(const std::vector<int32_t>& ids) {
  if (ids.size() < 2) return {};
  check_prompt(ids);
  ensure_positions(static_cast<int64_t>(ids.size()));
  const auto n = static_cast<int64_t>(ids.size());
  std::vector<int32_t> positions(ids.size()), rows(ids.size() - 1), labels(ids.begin() + 1, ids.end());
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
  const std::vector<int32_t> cu{0, static_cast<int32_t>(n)};
  nn::Stream stream;
  stream.rows = Rows::exactly(n);
  stream.tokens = over(ids);
  stream.positions = over(positions);
  stream.cu_seqlens = over(cu);
  stream.max_seqlen = n;
  std::vector<float> nll(rows.size());
  nn::Targets targets;
  targets.rows = Rows::exactly(n - 1);
  targets.label_rows = over(rows);
  targets.labels = over(labels);
  ArenaScope scope(*arena_);
  tape_->begin(false);
  const models::ForwardOptions options;
  nn::Value hidden = model_->forward(*tape_, stream, compute_, options);
  model_->head().loss(*tape_, hidden, targets, {Tensor::vector(nll.data(), DType::f32, n - 1), {}, 0, nullptr});
  for (size_t i = 0; i < nll.size(); ++i) {
    nll[i] = -nll[i];
    if (!std::isfinite(nll[i]))
      fail("{}: the log-likelihood of token {} (id {}) is not finite: the weights are damaged, or too large for this precision", directory_, i + 2, ids[i + 1]);
  }
  return nll;
}

}  // namespace attune::infer
