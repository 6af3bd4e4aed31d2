#include "infer/generator.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/merge.h"
#include "models/quantized_base.h"
#include "text/same_tokens.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/json.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::infer {

namespace {

// Whose answers are asked for first: of a set the first adapter that has a weight, or the first one.
size_t first_of(const std::vector<double>& weights) {
  const auto on = std::find_if(weights.begin(), weights.end(), [](double w) { return w != 0; });
  return on == weights.end() ? 0 : static_cast<size_t>(on - weights.begin());
}

// Where the tokenizer is: new tokens and a template come with an adapter.
std::string directory_of_tokenizer(const std::string& base, const models::AdapterRequest& adapters, const std::vector<double>& weights) {
  const std::string own = !adapters.chain.empty() ? adapters.chain.back() : !adapters.set.empty() ? adapters.set[first_of(weights)].directory : "";
  return !own.empty() && text::Tokenizer::found_in(own) ? own : base;
}

bool same_files(const fs::path& a, const fs::path& b) {
  const auto content = [](const fs::path& directory) {
    std::string all;
    for (const fs::path& file : text::Tokenizer::files(directory)) all += file.filename().string() + hash128_file(file);
    return all;
  };
  return a == b || content(a) == content(b);
}

// One tokenizer reads for all adapters of a set: what another one has learnt in other tokens it would never see.
void check_tokenizers(const text::Tokenizer& tokenizer, const std::string& directory, const std::string& base, const std::vector<models::NamedAdapter>& set) {
  for (const models::NamedAdapter& adapter : set) {
    const std::string own = text::Tokenizer::found_in(adapter.directory) ? adapter.directory : base;
    if (same_files(own, directory)) continue;
    const auto theirs = text::Tokenizer::load(own);
    if (!text::same_tokens(*theirs, tokenizer))
      refuse("--adapter: {} goes with the tokenizer in {}, which has other tokens than the one in {}. Such adapters are used alone, or merged first (attune merge)",
             adapter.name, own, directory);
    if (theirs->chat_template() != tokenizer.chat_template())
      warn("--adapter: {} was tuned with another chat template than the one in {}, which is used for all of them; --template names one", adapter.name, directory);
  }
}

}  // namespace

Generator::Generator(const std::string& directory, DType compute, const models::AdapterRequest& adapters, const Quantization& quantization,
                     const ops::Backend& backend) {
  Device& device = backend.device();
  formats::ModelDirectory files(directory);
  if (adapters.set.empty()) {
    model_ = models::declare_adapted(files, adapters.chain);
    models::quantize_layers(*model_, quantization);
  } else {
    model_ = std::make_unique<models::Decoder>(models::adapted_config(files, adapters.directories()));
    adapters_ = std::make_unique<models::AdapterSet>(*model_, adapters.set, quantization);
  }
  const auto weights = adapters_ ? models::parse_weights(adapters.use, adapters.set) : std::vector<double>{};
  tokenizer_directory_ = directory_of_tokenizer(directory, adapters, weights);
  tokenizer_ = text::Tokenizer::load(tokenizer_directory_);
  check_tokenizers(*tokenizer_, tokenizer_directory_, directory, adapters.set);
  const double bytes = models::weight_bytes(*model_, compute) + (adapters_ ? static_cast<double>(adapters_->bytes(compute)) : 0);
  if (bytes > static_cast<double>(device.free_memory()))
    fail("{}: the weights take {:.1f} GB in this precision, {} are available", directory, bytes / 1e9, format_bytes(device.free_memory()));
  model_->parameters().allocate_weights(device, compute);
  models::load_adapted(*model_, files, adapters.chain);
  if (adapters_) {
    adapters_->load(compute);
    adapters_->select(weights);
  }
  for (const auto& p : model_->parameters().all()) p->trainable = false;
  const fs::path generation = fs::path(directory) / "generation_config.json";
  if (fs::exists(generation)) {
    const Json json = read_json(generation);
    if (json.is_object() && json.contains("eos_token_id"))
      for (const Json& id : json["eos_token_id"].is_array() ? json["eos_token_id"] : Json::array({json["eos_token_id"]}))
        if (id.is_number_integer()) generation_eos_.push_back(id.get<int64_t>());
  }
  session_ = std::make_unique<Session>(*model_, compute, directory);
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

}  // namespace attune::infer
