#include "train/data_setup.h"

#include <fmt/ranges.h>

#include <cmath>
#include <cstdlib>
#include <optional>

#include "data/token_cache.h"
#include "util/error.h"
#include "util/files.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/rng.h"

namespace attune::train {
namespace {

using data::TokenSet;

// Data that is tokenised faster than this (seconds) is not kept, unless tokenized_path asks for it.
constexpr double kWorthKeeping = 2;
// Of all that is kept in the user's cache directory. What tokenized_path names is the user's own to clear.
constexpr uint64_t kMostCacheBytes = 20'000'000'000;

data::TokenRequest request_of(const Config& c, const std::vector<std::string>& names) {
  data::TokenRequest r;
  for (const std::string& name : names) r.sets.push_back(data::find_data_set(name, c.dataset_dir));
  r.read = {c.row_kind(), c.max_samples, static_cast<uint64_t>(c.seed)};
  r.tokenize = {c.cutoff_len, c.train_on_prompt, c.row_kind(), c.mask_history, c.stage == "dpo" ? static_cast<float>(c.ld_alpha) : 1.0f};
  r.chat_template = c.chat_template;
  r.tool_format = c.tool_format;
  return r;
}

// tokenized_path, $ATTUNE_CACHE_DIR/tokens, $XDG_CACHE_HOME/attune/tokens or ~/.cache/attune/tokens.
std::optional<data::TokenCache> cache_of(const Config& c) {
  if (!c.token_cache) return std::nullopt;
  if (!c.tokenized_path.empty()) return data::TokenCache(c.tokenized_path, 0);
  const auto directory = [](const char* variable, const char* below) -> std::optional<data::TokenCache> {
    const char* value = std::getenv(variable);
    // The XDG specification ignores what is not absolute, and so does everything here.
    if (!value || !fs::path(value).is_absolute()) return std::nullopt;
    return data::TokenCache(fs::path(value) / below / "tokens", kMostCacheBytes);
  };
  if (auto own = directory("ATTUNE_CACHE_DIR", "")) return own;
  if (auto xdg = directory("XDG_CACHE_HOME", "attune")) return xdg;
  return directory("HOME", ".cache/attune");
}

// Empty where a file cannot be read; its reader says so better.
std::string cache_key(const data::TokenRequest& request, const fs::path& tokenizer) {
  try {
    return data::key_of(request, tokenizer);
  } catch (const Error&) {
    return "";
  }
}

data::TokenizedData tokenised(const RunSetup& setup, const data::TokenRequest& request, const data::ChatSource& chat) {
  const Config& c = setup.config;
  const fs::path& files = setup.vocabulary.directory;
  const double begin = seconds_now();
  const std::optional<data::TokenCache> cache = cache_of(c);
  const std::string key = cache ? cache_key(request, files) : "";
  if (!key.empty() && !c.overwrite_cache)
    if (auto kept = cache->load(key)) {
      info("tokenised data from the cache ({}): {} tokens in {:.2f} s", cache->file_of(key).string(), kept->set.total_tokens(),
           seconds_now() - begin);
      return std::move(*kept);
    }
  if (!key.empty() && c.overwrite_cache && cache->has(key)) info("overwrite_cache: the data is tokenised anew, though the cache has it");
  const double reading = seconds_now();
  data::TokenizedData data = data::tokenize_data_sets(request, *setup.tokenizer, chat);
  const bool worth = seconds_now() - reading > kWorthKeeping || !c.tokenized_path.empty();
  // Made anew, it takes the place of what could not be used. A file that changed while it was read has another key now.
  if (!key.empty() && (worth || cache->has(key)) && cache_key(request, files) == key) cache->store(key, data);
  return data;
}

// Holds val_size samples out (a pair counts once), or those of one fold, chosen by the seed.
void split(RunSetup& setup, TokenSet all, const Fold& fold) {
  const int64_t size = all.groups();
  if (size == 0)
    refuse("dataset: no sample is left to train on: {}", fmt::join(setup.report.summary(), "; "));
  const double val = setup.config.val_size;
  if (val > 1 && val != std::floor(val)) refuse("val_size: {} is neither a share below 1 nor a whole number of samples", val);
  auto count = static_cast<int64_t>(val < 1 ? std::llround(val * static_cast<double>(size)) : val);
  if (val > 0) count = std::max<int64_t>(1, count);
  int64_t first = 0;
  if (fold.count > 0) {
    if (size < fold.count) refuse("cross_validation: {} folds need as many samples, there are {}", fold.count, size);
    first = size * fold.index / fold.count;
    count = size * (fold.index + 1) / fold.count - first;
  }
  if (count >= size)
    refuse("val_size: {} samples would be held out of {}; nothing would be left to train on", count, size);
  if (count == 0) {
    setup.train_set = std::make_unique<TokenSet>(std::move(all));
    return;
  }
  const data::Permutation order(size, mix_key(static_cast<uint64_t>(setup.config.seed), 0x5EED), 0);
  std::vector<bool> held(static_cast<size_t>(size), false);
  for (int64_t i = 0; i < count; ++i) held[static_cast<size_t>(order[first + i])] = true;
  setup.eval_set = std::make_unique<TokenSet>(all.take(held));
  setup.train_set = std::make_unique<TokenSet>(std::move(all));
}

// What is held out must not come back through repetition: first split, then mix.
void mix_sets(RunSetup& setup, const data::MixOptions& mixing) {
  const TokenSet& set = *setup.train_set;
  std::vector<bool> found(set.sources().size(), false);
  for (int64_t i = 0; i < set.size(); ++i) found[static_cast<size_t>(set.source(i))] = true;
  for (size_t s = 0; s < found.size(); ++s)
    if (!found[s] && !mixing.is_plain())
      refuse("dataset: no sample of \"{}\" is left to mix: {}", set.sources()[s], fmt::join(setup.report.summary(), "; "));
  data::mix(*setup.train_set, mixing);
}

// The first rows of a stream, as many as val_size says.
void hold_out(RunSetup& setup, data::TokenStream& stream) {
  const double val = setup.config.val_size;
  if (val < 1 || val != std::floor(val))
    refuse("val_size: {} is a share, but how long a stream is is not known. Give a number of rows (the first ones are held out), or eval_dataset", val);
  data::StreamWindow held = stream.hold_out(static_cast<int64_t>(val));
  setup.report.add(held.report);
  setup.rows_read += held.rows;
  setup.eval_set = std::make_unique<TokenSet>(std::move(held.set));
}

void read_eval_set(RunSetup& setup) {
  const Config& c = setup.config;
  if (c.eval_dataset.empty()) return;
  const std::vector<std::string> trained = setup.data_files;
  setup.eval_set = std::make_unique<TokenSet>(read_set(setup, c.eval_dataset));
  if (setup.eval_set->size() == 0) refuse("eval_dataset: no sample is left: {}", fmt::join(setup.report.summary(), "; "));
  for (size_t i = trained.size(); i < setup.data_files.size(); ++i)
    for (const std::string& file : trained)
      if (fs::weakly_canonical(file) == fs::weakly_canonical(setup.data_files[i]))
        warn("eval_dataset: {} is trained on too: its figures tell what is known by heart. Hold rows out with val_size instead", file);
}

void prepare_stream(RunSetup& setup, const data::MixOptions& mixing) {
  const Config& c = setup.config;
  setup.stream = std::make_unique<StreamFeed>(request_of(c, c.dataset), mixing, c.buffer_size, *setup.tokenizer);
  data::TokenStream& stream = setup.stream->stream();
  for (const std::string& file : stream.files()) setup.data_files.push_back(file);
  if (c.val_size > 0) hold_out(setup, stream);
  setup.stream->begin(setup);
}

}  // namespace

void check_ids(const TokenSet& set, int64_t vocab, const std::string& model) {
  for (int64_t i = 0; i < set.size(); ++i)
    for (int32_t id : set.ids(i))
      if (id < 0 || id >= vocab)
        refuse("{}: the tokenizer gives id {} but the model has only {} embedding rows. Tokenizer and model do not belong "
               "together ({})", model, id, vocab, set.where(i));
}

TokenSet read_set(RunSetup& setup, const std::vector<std::string>& names) {
  const Config& c = setup.config;
  const data::TokenRequest request = request_of(c, names);
  const data::ChatSource chat = [&]() -> const text::ChatTemplate& {
    if (!setup.chat) setup.chat = text::ChatTemplate::create(request.chat_template, *setup.tokenizer, request.tool_format);
    return *setup.chat;
  };
  data::TokenizedData data = tokenised(setup, request, chat);
  if (data.conversations) chat();
  setup.report.add(data.report);
  setup.data_files.insert(setup.data_files.end(), data.files.begin(), data.files.end());
  setup.rows_read += data.rows_read;
  return std::move(data.set);
}

void prepare_data(RunSetup& setup, const Fold& fold) {
  const Config& c = setup.config;
  const data::MixOptions mixing{c.mix_strategy, c.interleave_probs, c.dataset_weights, static_cast<uint64_t>(c.seed)};
  data::check_mixing(mixing, c.dataset.size());
  if (c.streaming) {
    prepare_stream(setup, mixing);
  } else {
    split(setup, read_set(setup, c.dataset), fold);
    mix_sets(setup, mixing);
    check_ids(*setup.train_set, setup.architecture.vocab_size, c.model_name_or_path);
  }
  read_eval_set(setup);
  if (setup.eval_set) check_ids(*setup.eval_set, setup.architecture.vocab_size, c.model_name_or_path);
}

}  // namespace attune::train
