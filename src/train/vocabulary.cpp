#include "train/vocabulary.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/adapter.h"
#include "models/families/family.h"
#include "text/extend.h"
#include "train/lora_options.h"
#include "train/objective_options.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/log.h"
#include "util/rng.h"

namespace attune::train {
namespace {

// Adapters that the run begins with may have grown the vocabulary, and hold its tokenizer.
void follow_adapters(const Config& c, Vocabulary& v, models::DecoderConfig& architecture, std::unique_ptr<text::Tokenizer>& tokenizer) {
  if (c.finetuning_type != "lora") return;
  for (const std::string& adapter : c.adapter_name_or_path) {
    models::grow_vocabulary(architecture, adapter);
    if (!text::Tokenizer::found_in(adapter)) continue;
    auto theirs = text::Tokenizer::load(adapter);
    if (tokenizer && theirs->vocab_size() <= tokenizer->vocab_size()) continue;
    tokenizer = std::move(theirs);
    v.directory = adapter;
  }
}

// New rows must be trained with the adapter, and what is merged must not lie below them.
void check_adapters(const Config& c) {
  if (c.finetuning_type != "lora") return;
  const tuning::LoraOptions lora = lora_options(c);
  const auto saves = [](const formats::LoraConfig& f, const char* module) { return f.saves(module); };
  if (!lora.continued.empty() && !(saves(lora.config, "model.embed_tokens") && (scores_sequences(c) || saves(lora.config, "lm_head"))))
    refuse("add_tokens: {} does not train embed_tokens and lm_head as a whole, so new tokens cannot be learnt with it. Set create_new_adapter: true, "
           "or merge it first (attune merge)", lora.continued);
  for (const std::string& directory : lora.merged) {
    const auto f = formats::read_lora_config(directory);
    for (const char* module : {"model.embed_tokens", "lm_head"})
      if (f.saves(module) || f.targets(module)) refuse("add_tokens: {} changes {}; merge it into the base first (attune merge), then add tokens", directory, module);
  }
}

// Families that tell by the size of the vocabulary what kind of head they have would read the result wrongly.
void check_family(const formats::ModelDirectory& base, const models::DecoderConfig& grown) {
  Json config = base.config();
  config["vocab_size"] = grown.vocab_size;
  const auto read = models::parse_config(config, "config.json");
  if (read.norm_head != grown.norm_head)
    refuse("resize_vocab: the family {} tells its kind of head by the size of the vocabulary, which therefore cannot grow", grown.family);
}

std::vector<double> mean_of(Device& device, const Tensor& table, const std::vector<text::TokenId>* parts, int64_t known) {
  const auto d = static_cast<size_t>(table.cols);
  std::vector<double> sum(d);
  std::vector<float> row(d);
  const int64_t n = parts ? static_cast<int64_t>(parts->size()) : known;
  for (int64_t i = 0; i < n; ++i) {
    get(device, table, (parts ? (*parts)[static_cast<size_t>(i)] : i) * table.cols, row);
    for (size_t j = 0; j < d; ++j) sum[j] += row[j];
  }
  for (double& x : sum) x /= static_cast<double>(std::max<int64_t>(1, n));
  return sum;
}

void begin_table(const Vocabulary& v, const Config& c, int64_t first_free, nn::Parameter& table) {
  if (!table.learns())
    refuse("add_tokens: {} is not trained here, so new tokens would never be learnt. With finetuning_type: freeze name embed_tokens and lm_head in "
           "freeze_extra_modules; use_badam leaves them alone", table.name);
  const Tensor& from = table.stepped();
  const std::vector<double> mean = mean_of(*table.device, from, nullptr, std::min(v.known, first_free));
  std::vector<float> row(mean.size());
  // Rows between the base's last and the first new token belong to nobody.
  for (int64_t id = first_free; id < table.shape[0]; ++id) table.set(id * from.cols, std::vector<float>(mean.begin(), mean.end()));
  const uint64_t key = mix_key(static_cast<uint64_t>(c.seed), hash64(table.name), 0x70CE);
  const double noise = c.init_special_tokens == "noise_init" ? 1 / std::sqrt(static_cast<double>(mean.size())) : 0;
  for (const Vocabulary::Row& r : v.rows) {
    const bool parts = c.init_special_tokens == "subtokens" && !r.parts.empty();
    const std::vector<double> centre = parts ? mean_of(*table.device, from, &r.parts, 0) : mean;
    for (size_t j = 0; j < row.size(); ++j) {
      const uint64_t at = 2 * (static_cast<uint64_t>(r.id) * row.size() + j);
      row[j] = static_cast<float>(centre[j] + (noise > 0 ? noise * normal_pair(element_bits(key, at), element_bits(key, at + 1))[0] : 0));
    }
    table.set(r.id * from.cols, row);
  }
}

}  // namespace

Vocabulary make_vocabulary(const Config& c, const formats::ModelDirectory& base, models::DecoderConfig& architecture,
                           std::unique_ptr<text::Tokenizer>& tokenizer) {
  Vocabulary v;
  v.directory = base.path();
  const bool adds = !c.add_tokens.empty() || !c.add_special_tokens.empty();
  if (adds || text::Tokenizer::found_in(v.directory)) tokenizer = text::Tokenizer::load(v.directory);
  follow_adapters(c, v, architecture, tokenizer);
  std::vector<text::NewToken> tokens;
  if (adds) tokens = text::new_tokens(*tokenizer, c.add_tokens, c.add_special_tokens);
  if (adds && tokens.empty()) notice("add_tokens, add_special_tokens: the vocabulary has all of these tokens already");
  if (tokens.empty() && v.directory == base.path()) return v;

  if (!tokens.empty()) check_adapters(c);
  const int64_t before = architecture.vocab_size, needed = (tokens.empty() ? 0 : tokens.back().id + 1);
  if (needed > before) {
    if (!c.resize_vocab)
      refuse("add_tokens: the model has {} embedding rows, with the {} new tokens {} are needed. Set resize_vocab: true to add rows", before, tokens.size(), needed);
    models::grow_vocabulary(architecture, needed);
    check_family(base, architecture);
  }
  v.known = tokenizer->vocab_size();
  for (const text::NewToken& t : tokens) v.rows.push_back({t.id, tokenizer->encode(t.content).ids});
  v.own = std::make_shared<TemporaryDirectory>();
  for (const fs::path& from : {v.directory, base.path()}) formats::copy_companions(from, v.own->path());
  v.directory = v.own->path();
  if (tokens.empty()) return v;
  text::add_to_files(v.directory, tokens);
  tokenizer = text::Tokenizer::load(v.directory);
  for (const text::NewToken& t : tokens)
    if (tokenizer->token_to_id(t.content) != t.id) fail("internal error: the new token \"{}\" was not read back with id {}", t.content, t.id);
  notice("{} new tokens with the ids {} to {}: {}{}", tokens.size(), tokens.front().id, tokens.back().id,
         needed > before ? fmt::format("embedding and head grow from {} to {} rows", before, needed)
                         : fmt::format("they take rows that the base has beyond its tokenizer's ({} of {} are used)", needed, before),
         c.finetuning_type == "lora" ? "; embed_tokens and lm_head are trained as a whole and saved with the adapter (additional_target)" : "");
  return v;
}

void begin_rows(const Vocabulary& v, const Config& c, models::Decoder& model) {
  if (v.rows.empty()) return;
  const int64_t stored = model.config().stored_vocab_size, first_free = stored > 0 ? stored : model.config().vocab_size;
  begin_table(v, c, first_free, model.embedding());
  if (&model.head_weight() != &model.embedding() && model.config().num_labels == 0) begin_table(v, c, first_free, model.head_weight());
}

}  // namespace attune::train
