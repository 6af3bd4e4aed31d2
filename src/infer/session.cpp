#include "infer/session.h"

#include <algorithm>
#include <cmath>

#include "ops/backend.h"
#include "ops/elementwise.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/machine.h"

namespace attune::infer {
namespace {

// Address space; pages are taken as needed.
constexpr uint64_t kReserve = uint64_t{1} << 38;
// Prompts that join a batch in one pass: bounds the activations. A longer prompt runs alone.
constexpr int64_t kJoiningTokens = 2048;

int64_t length_of(const std::vector<int32_t>& v) { return static_cast<int64_t>(v.size()); }

// The most tokens that an answer to `prompt` may have.
int64_t room(const std::vector<int32_t>& prompt, const GenerateOptions& options) {
  const int64_t left = options.max_length > 0 ? options.max_length - length_of(prompt) : options.max_new_tokens;
  return std::max<int64_t>(0, std::min(options.max_new_tokens, left));
}

}  // namespace

// A sequence in work.
struct Session::Slot {
  size_t prompt = 0;
  uint64_t sample = 0;
  std::vector<int32_t> ids;  // prompt and answer
  int64_t room = 0;          // tokens still to come at most
  int64_t begin = 0;         // its rows in the cache
  int64_t length = 0;        // of them valid
  Generation answer;
};

Session::Session(models::Decoder& model, DType compute, std::string name) : model_(model), compute_(compute), name_(std::move(name)) {
  Device& device = *model.embedding().device;
  arena_ = std::make_unique<Arena>(device, kReserve);
  inputs_ = std::make_unique<Arena>(device, kReserve);
  context_ = std::make_unique<ops::Context>(ops::backend_of(device), *arena_);
  hooks_ = std::make_unique<nn::StepHooks>();
  tape_ = std::make_unique<nn::Tape>(*context_, *hooks_);
}

Session::~Session() = default;

void Session::check_prompt(const std::vector<int32_t>& ids) const {
  if (model_.config().num_labels > 0)
    refuse("{} scores whole texts (a reward model or classifier) and writes none; `attune score --reward` asks it", name_);
  check_ids(ids);
}

void Session::check_ids(const std::vector<int32_t>& ids) const {
  if (ids.empty()) refuse("the prompt is empty and the tokenizer has no token to begin with");
  for (int32_t id : ids)
    if (id < 0 || id >= model_.config().vocab_size)
      refuse("{}: token id {} lies outside of the model's vocabulary of {}", name_, id, model_.config().vocab_size);
}

void Session::check_memory(uint64_t bytes, const std::string& what) const {
  const uint64_t free = context_->device().free_memory();
  if (bytes > free)
    refuse("keys and values of {} take up to {}, {} are available; ask for fewer new tokens or for fewer sequences at a time (batch size)",
           what, format_bytes(bytes), format_bytes(free));
}

void Session::ensure_positions(int64_t positions) {
  // Tables grow with the text: the most that is allowed is seldom reached.
  if (positions > model_.positions()) model_.prepare(context_->device(), std::max<int64_t>({positions, 512, 2 * model_.positions()}));
}

// Runs what is not in the cache yet of every sequence; logits [S,V] behind their last tokens.
Tensor Session::forward(std::span<Slot> slots, models::KvCache& cache) {
  std::vector<int32_t> tokens, positions, cu{0}, keys;
  std::vector<nn::CachedSequence> cached;
  nn::Stream stream;
  for (Slot& s : slots) {
    const int64_t longer = length_of(s.ids);
    if (!model_.cache_keeps(s.length, longer)) s.length = 0;
    const int64_t count = longer - s.length;
    for (int64_t i = s.length; i < longer; ++i) tokens.push_back(s.ids[static_cast<size_t>(i)]), positions.push_back(static_cast<int32_t>(i));
    cu.push_back(static_cast<int32_t>(tokens.size()));
    keys.insert(keys.end(), {0, static_cast<int32_t>(longer)});
    cached.push_back({s.begin, s.length, count});
    stream.max_seqlen = std::max(stream.max_seqlen, count);
    stream.past = std::max(stream.past, s.length);
    s.length = longer;
  }
  tokens_run_ += static_cast<int64_t>(tokens.size());
  ensure_positions(1 + *std::max_element(positions.begin(), positions.end()));
  stream.rows = Rows::exactly(static_cast<int64_t>(tokens.size()));
  const ArenaScope inputs(*inputs_);
  stream.tokens = on_device(*inputs_, tokens);
  stream.positions = on_device(*inputs_, positions);
  stream.cu_seqlens = on_device(*inputs_, cu);
  stream.cu_keys = on_device(*inputs_, keys);
  stream.cached = cached;
  models::ForwardOptions options;
  options.cache = &cache;
  tape_->begin(false);
  const nn::Value hidden = model_.forward(*tape_, stream, compute_, options);
  const auto n = static_cast<int64_t>(slots.size());
  const Tensor last = arena_->matrix(Rows::exactly(n), hidden->value.cols, hidden->value.dtype);
  for (int64_t i = 0; i < n; ++i) ops::scale(*context_, {hidden->value.slice(cu[static_cast<size_t>(i) + 1] - 1, 1), last.slice(i, 1), 1.0f, false});
  return model_.head().logits(*context_, last);
}

// The next token of one sequence; whether it has ended.
bool Session::choose(Slot& s, std::span<float> logits, const GenerateOptions& options, const Listener& listener) const {
  if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }))
    fail("{}: the logits behind token {} are not finite: the weights are damaged, or too large for this precision", name_, s.ids.size());
  const int32_t id = sample(logits, s.ids, options, {s.sample, static_cast<uint64_t>(s.ids.size())});
  if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) return s.answer.stopped = true;
  s.answer.ids.push_back(id);
  s.ids.push_back(id);
  if (listener.on_token && !listener.on_token(s.prompt, id)) return s.answer.stopped = true;
  return --s.room == 0;
}

std::vector<Generation> Session::generate_batch(std::span<const Prompt> prompts, const GenerateOptions& options, const Listener& listener) {
  std::vector<Generation> answers(prompts.size());
  int64_t capacity = 0;
  for (const Prompt& p : prompts) {
    check_prompt(p.ids);
    capacity = std::max(capacity, length_of(p.ids) + room(p.ids, options));
  }
  const auto most = static_cast<int64_t>(prompts.size());
  const int64_t slots = model_.rotates_by_length() ? 1 : std::clamp<int64_t>(options.batch_size, 1, std::max<int64_t>(1, most));
  const uint64_t bytes = model_.cache_bytes(slots * capacity, compute_);
  // One text takes pages as it grows, and seldom grows to the most that is allowed.
  if (slots > 1) check_memory(bytes, fmt::format("{} sequences of {} tokens", slots, capacity));
  Arena memory(context_->device(), bytes);
  models::KvCache cache = model_.make_cache(memory, slots * capacity, compute_);

  std::vector<int64_t> places;  // in the cache, that are free
  for (int64_t i = slots; i-- > 0;) places.push_back(i * capacity);
  std::vector<Slot> active;
  const auto finish = [&](Slot& s) {
    answers[s.prompt] = std::move(s.answer);
    if (listener.on_answer) listener.on_answer(s.prompt, answers[s.prompt]);
  };
  for (size_t next = 0; next < prompts.size() || !active.empty();) {
    for (int64_t joining = 0; next < prompts.size() && !places.empty(); ++next) {
      Slot s{next, prompts[next].sample, prompts[next].ids, room(prompts[next].ids, options), 0, 0, {}};
      if (s.room == 0) {
        finish(s);
        continue;
      }
      if (joining > 0 && joining + length_of(s.ids) > kJoiningTokens) break;
      joining += length_of(s.ids);
      s.begin = places.back();
      places.pop_back();
      active.push_back(std::move(s));
    }
    if (active.empty()) continue;
    ArenaScope scope(*arena_);
    std::vector<float> logits = floats_of(context_->device(), forward(active, cache));
    const size_t vocab = logits.size() / active.size();
    std::vector<Slot> going;
    for (size_t i = 0; i < active.size(); ++i) {
      Slot& s = active[i];
      if (!choose(s, std::span(logits).subspan(i * vocab, vocab), options, listener)) {
        going.push_back(std::move(s));
        continue;
      }
      places.push_back(s.begin);
      finish(s);
    }
    active = std::move(going);
  }
  return answers;
}

Generation Session::generate(const std::vector<int32_t>& prompt, const GenerateOptions& options, const Listener& listener) {
  const Prompt only{prompt, 0};
  return std::move(generate_batch({&only, 1}, options, listener)[0]);
}

KeptText Session::keep(int64_t capacity) const {
  KeptText kept;
  kept.capacity = capacity;
  const uint64_t bytes = model_.cache_bytes(capacity, compute_);
  kept.memory = std::make_unique<Arena>(context_->device(), bytes);
  kept.cache = model_.make_cache(*kept.memory, capacity, compute_);
  return kept;
}

Generation Session::generate(KeptText& kept, const Prompt& request, const GenerateOptions& options, const Listener& listener) {
  const std::vector<int32_t>& prompt = request.ids;
  check_prompt(prompt);
  GenerateOptions bounded = options;
  bounded.max_length = options.max_length > 0 ? std::min(options.max_length, kept.capacity) : kept.capacity;
  Slot s{0, request.sample, prompt, room(prompt, bounded), 0, 0, {}};
  if (s.room == 0) return {};
  // At least the last token runs: its logits are wanted.
  const size_t most = std::min(kept.ids.size(), prompt.size() - 1);
  const auto same = static_cast<size_t>(std::mismatch(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(most), kept.ids.begin()).first - prompt.begin());
  // What is left of a longer text may have been rotated for its length.
  s.length = model_.rotates_by_length() && same < kept.ids.size() ? 0 : static_cast<int64_t>(same);
  kept.ids.clear();  // an error below must not leave a cache that claims more than it holds
  for (bool ended = false; !ended;) {
    ArenaScope scope(*arena_);
    std::vector<float> logits = floats_of(context_->device(), forward({&s, 1}, kept.cache));
    ended = choose(s, logits, bounded, listener);
  }
  kept.ids.assign(s.ids.begin(), s.ids.begin() + s.length);
  return std::move(s.answer);
}

// A text by itself, from its beginning.
struct Session::Alone {
  std::vector<int32_t> positions, cu;
  nn::Stream stream;
  Alone(Arena& inputs, const std::vector<int32_t>& ids) : positions(ids.size()), cu{0, static_cast<int32_t>(ids.size())} {
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
    stream.rows = Rows::exactly(length_of(ids));
    stream.tokens = on_device(inputs, ids);
    stream.positions = on_device(inputs, positions);
    stream.cu_seqlens = on_device(inputs, cu);
    stream.max_seqlen = length_of(ids);
    stream.pairs = static_cast<double>(length_of(ids) * length_of(ids));
  }
};

std::vector<float> Session::logits(const std::vector<int32_t>& ids) {
  check_prompt(ids);
  ensure_positions(length_of(ids));
  ArenaScope scope(*arena_), inputs(*inputs_);
  const Alone text(*inputs_, ids);
  tape_->begin(false);
  const nn::Value hidden = model_.forward(*tape_, text.stream, compute_, {});
  const Tensor logits = model_.head().logits(*context_, hidden->value);
  return floats_of(context_->device(), logits);
}

std::vector<float> Session::score(const std::vector<int32_t>& ids) {
  if (ids.size() < 2) return {};
  check_prompt(ids);
  const int64_t n = length_of(ids);
  ensure_positions(n);
  std::vector<int32_t> rows(ids.size() - 1), labels(ids.begin() + 1, ids.end());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
  ArenaScope scope(*arena_), inputs(*inputs_);
  const Alone text(*inputs_, ids);
  nn::Targets targets;
  targets.rows = Rows::exactly(n - 1);
  targets.label_rows = on_device(*inputs_, rows);
  targets.labels = on_device(*inputs_, labels);
  const Tensor logp = inputs_->vector(n - 1, DType::f32);
  tape_->begin(false);
  const models::ForwardOptions options;
  const nn::Value hidden = model_.forward(*tape_, text.stream, compute_, options);
  model_.head().loss(*tape_, hidden, targets, {logp, {}, 0, nullptr});
  std::vector<float> nll = floats_of(context_->device(), logp);
  for (size_t i = 0; i < nll.size(); ++i) {
    nll[i] = -nll[i];
    if (!std::isfinite(nll[i]))
      fail("{}: the log-likelihood of token {} (id {}) is not finite: the weights are damaged, or too large for this precision", name_, i + 2, ids[i + 1]);
  }
  return nll;
}

std::vector<float> Session::sequence_scores(const std::vector<int32_t>& ids) {
  if (model_.config().num_labels == 0) refuse("{} is a language model; rewards come from a model of stage: rm (…ForSequenceClassification)", name_);
  check_ids(ids);
  ensure_positions(length_of(ids));
  ArenaScope scope(*arena_), inputs(*inputs_);
  const Alone text(*inputs_, ids);
  tape_->begin(false);
  const models::ForwardOptions options;
  const nn::Value hidden = model_.forward(*tape_, text.stream, compute_, options);
  std::vector<float> scores = floats_of(context_->device(), model_.head().logits(*context_, hidden->value.slice(length_of(ids) - 1, 1)));
  if (!std::all_of(scores.begin(), scores.end(), [](float x) { return std::isfinite(x); }))
    fail("{}: the score of a text of {} tokens is not finite: the weights are damaged, or too large for this precision", name_, ids.size());
  return scores;
}

uint64_t generation_bytes(models::Decoder& model, DType compute, int64_t sequences, int64_t prompt, int64_t max_new_tokens,
                          const ops::Backend& backend) {
  if (model.rotates_by_length()) sequences = 1;
  const int64_t longest = prompt + max_new_tokens;
  // Where frequencies follow the length, the whole text runs again.
  const int64_t alone = model.rotates_by_length() ? longest : prompt;
  const int64_t rows = std::max(alone, std::min(sequences * prompt, kJoiningTokens)) + sequences;
  Arena arena(attune::Place::dry(), kReserve), inputs(attune::Place::dry(), kReserve);
  ops::Context context(backend, arena);
  nn::StepHooks hooks;
  nn::Tape tape(context, hooks);
  models::KvCache cache = model.make_cache(inputs, longest + rows, compute);
  nn::Stream stream;
  stream.rows = Rows::exactly(rows);
  stream.tokens = stream.positions = inputs.vector(rows, DType::i32);
  const std::vector<int32_t> all_rows{0, static_cast<int32_t>(rows)};
  stream.cu_seqlens = stream.cu_keys = on_device(inputs, all_rows);
  stream.max_seqlen = alone;
  stream.past = longest;
  const nn::CachedSequence all{0, 0, rows};
  stream.cached = {&all, 1};
  models::ForwardOptions options;
  options.cache = &cache;
  tape.begin(false);
  const nn::Value hidden = model.forward(tape, stream, compute, options);
  const Tensor last = arena.matrix(Rows::exactly(sequences), hidden->value.cols, hidden->value.dtype);
  model.head().logits(context, last);
  const auto tables = static_cast<uint64_t>(2 * longest * model.config().head_dim) * 2 * sizeof(float);
  return arena.high_water() + model.cache_bytes(sequences * longest, compute) + (longest > model.positions() ? tables : 0);
}

int64_t context_length(const models::DecoderConfig& config) {
  using Type = models::RopeConfig::Type;
  const auto& rope = config.rope;
  if (config.positions != models::PositionEncoding::rope) return config.max_position_embeddings;
  const bool extends = rope.type == Type::dynamic || rope.type == Type::linear || rope.type == Type::yarn;
  const auto extended = static_cast<int64_t>(rope.factor * rope.original_max_position_embeddings);
  return extends && config.max_position_embeddings > 0 ? std::max(config.max_position_embeddings, extended) : config.max_position_embeddings;
}

}  // namespace attune::infer
