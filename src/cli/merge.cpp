// merge: adapters into their base, tensor by tensor, and the result compared with what it stands for.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "infer/generator.h"
#include "models/families/family.h"
#include "models/merge.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {
namespace {

// Where --file names nothing better.
const std::vector<std::string> kText{
    "Once upon a time there was a doctor who lived near the sea. Every morning she walked along the shore and thought about her patients.",
    "The court held that the contract was void because neither party had signed the second page.",
    "糖尿病患者应当定期检查血糖，并在医生指导下调整用药。",
    "def mean(values):\n    return sum(values) / len(values)"};
constexpr size_t kMostTokens = 64, kMostTexts = 16;
// Beyond this share of the largest logit an fp32 merge is not the model that the adapter made.
constexpr double kTolerance = 1e-3;

DType dtype_of(const formats::TensorInfo& info, const std::string& wanted) {
  return parse_dtype(wanted == "auto" ? info.dtype : wanted, "--dtype");
}

// Streams the tensors of the merged model out of the base's files.
class Merge {
 public:
  Merge(const MergeArgs& args) : args_(args), base_(args.model) {
    auto config = models::parse_config(base_.config(), (base_.path() / "config.json").string());
    for (const std::string& directory : args.adapters) {
      deltas_.emplace_back(directory);
      if (models::unties(config, deltas_.back().config())) models::untie(config), untied_ = true;
      models::grow_vocabulary(config, directory);
    }
    model_ = std::make_unique<models::Decoder>(config);
    for (const auto& d : deltas_)
      for (const std::string& name : d.names())
        if (!model_->parameters().find(name)) refuse("{} changes {}, which the base model does not have; it belongs to another base", fmt::join(args.adapters, ", "), name);
  }

  void write(const fs::path& out) {
    const Json config = new_config();
    formats::SaveOptions save;
    save.config = &config;
    if (text::Tokenizer::found_in(args_.adapters.back())) save.companions_from = args_.adapters.back();
    const auto tensors = sources();
    check_room(tensors, out);
    publish_directory(out, [&](const fs::path& directory) {
      formats::save_model(directory, tensors, save);
      formats::copy_companions(args_.model, directory);
    });
  }
  // Whether anything is rounded to 16 bits.
  bool narrow() const { return narrow_; }

 private:
  std::vector<formats::TensorSource> sources() {
    std::vector<formats::TensorSource> all;
    for (const auto& p : model_->parameters().all()) {
      const bool copied = p.get() == &model_->head_weight() && model_->config().head_from_embedding;
      const std::string& from = copied ? model_->embedding().name : p->name;
      const auto it = base_.tensors().find(from);
      if (it == base_.tensors().end()) fail("{}: tensor \"{}\" is missing", args_.model, from);
      const auto& [file, info] = it->second;
      const bool replaced = is_replaced(p->name);
      if (info->shape != p->shape && !replaced) fail("{}: tensor \"{}\" does not have the shape that config.json asks for", args_.model, from);
      const DType to = dtype_of(*info, args_.dtype);
      narrow_ |= to != DType::f32;
      formats::TensorSource source{p->name, p->shape, nullptr, to, to, replaced ? nullptr : file, replaced ? nullptr : info};
      if (std::any_of(deltas_.begin(), deltas_.end(), [&](const auto& d) { return d.changes(p->name); })) {
        source.make = [this, p = p.get(), file = file, info = info, to](uint64_t first, uint64_t n, void* out) { make(*p, *file, *info, to, first, n, out); };
      }
      all.push_back(std::move(source));
    }
    return all;
  }

  bool is_replaced(const std::string& name) const {
    return std::any_of(deltas_.begin(), deltas_.end(), [&](const auto& d) { return d.replaces(name); });
  }

  // Elements [first, first + n): the rows that hold them, in fp32, rounded once.
  void make(const nn::Parameter& p, const formats::TensorFile& file, const formats::TensorInfo& info, DType to, uint64_t first, uint64_t n, void* out) {
    const auto cols = static_cast<uint64_t>(p.shape.back());
    const uint64_t row = first / cols, rows = (first + n + cols - 1) / cols - row;
    rows_.resize(rows * cols);
    if (!is_replaced(p.name)) file.read(info, DType::f32, row * cols, rows * cols, rows_.data());
    for (const auto& d : deltas_) d.apply(p.name, p.shape, static_cast<int64_t>(row), static_cast<int64_t>(rows), rows_.data());
    convert(rows_.data() + (first - row * cols), DType::f32, out, to, n);
  }

  Json new_config() const {
    Json config = base_.config();
    if (untied_) config["tie_word_embeddings"] = false;
    if (model_->config().stored_vocab_size > 0) config["vocab_size"] = model_->config().vocab_size;
    if (args_.dtype == "auto") return config;
    const char* name = name_of(parse_dtype(args_.dtype, "--dtype"));
    const bool newer = config.contains("dtype");
    if (newer) config["dtype"] = name;
    if (config.contains("torch_dtype") || !newer) config["torch_dtype"] = name;
    return config;
  }

  void check_room(const std::vector<formats::TensorSource>& tensors, const fs::path& out) const {
    uint64_t bytes = 0;
    for (const auto& t : tensors) bytes += t.bytes();
    fs::path there = fs::absolute(out).parent_path();
    while (!fs::exists(there) && there.has_relative_path()) there = there.parent_path();
    if (const auto free = fs::space(there).available; bytes > free)
      fail("--out: the merged model takes {}, on the disk of {} are {} free", format_bytes(bytes), out.string(), format_bytes(free));
    fs::create_directories(fs::absolute(out).parent_path());
  }

  const MergeArgs& args_;
  formats::ModelDirectory base_;
  std::unique_ptr<models::Decoder> model_;
  std::vector<models::AdapterDelta> deltas_;
  std::vector<float> rows_;
  bool untied_ = false, narrow_ = false;
};

std::vector<std::vector<int32_t>> texts_of(const MergeArgs& args, const text::Tokenizer& tokenizer) {
  text::EncodeOptions encode;
  encode.add_special_tokens = true;
  std::vector<std::vector<int32_t>> all;
  for (const std::string& line : args.file.empty() ? kText : read_lines(args.file)) {
    auto ids = tokenizer.encode(line, encode).ids;
    if (ids.size() > kMostTokens) ids.resize(kMostTokens);
    if (ids.size() > 1) all.push_back(std::move(ids));
    if (all.size() == kMostTexts) break;
  }
  return all;
}

struct Answers {
  std::vector<std::vector<float>> logits;
  double nll = 0;
  size_t tokens = 0;
};

Answers answers_of(infer::Generator& generator, const std::vector<std::vector<int32_t>>& texts) {
  Answers a;
  for (const auto& ids : texts) {
    a.logits.push_back(generator.session().logits(ids));
    for (float x : generator.session().score(ids)) a.nll += x, ++a.tokens;
  }
  return a;
}

// One model at a time, so that it takes no more than running one.
void compare(const MergeArgs& args, bool narrow) {
  std::vector<std::vector<int32_t>> texts;
  Answers adapted;
  {
    infer::Generator generator(args.model, DType::f32, args.adapters);
    texts = texts_of(args, generator.tokenizer());
    adapted = answers_of(generator, texts);
  }
  if (adapted.tokens == 0) return warn("--file: no text of two tokens or more: nothing is compared");
  infer::Generator generator(args.out, DType::f32);
  const Answers merged = answers_of(generator, texts);
  double difference = 0, largest = 0;
  for (size_t t = 0; t < texts.size(); ++t)
    for (size_t i = 0; i < adapted.logits[t].size(); ++i) {
      difference = std::max(difference, static_cast<double>(std::abs(adapted.logits[t][i] - merged.logits[t][i])));
      largest = std::max(largest, static_cast<double>(std::abs(adapted.logits[t][i])));
    }
  const double before = adapted.nll / static_cast<double>(adapted.tokens), after = merged.nll / static_cast<double>(merged.tokens);
  info("on {} tokens of {} texts: largest difference of a logit {:.2g} (the largest logit is {:.3g}); loss {:.5f} with the adapter, {:.5f} merged",
       adapted.tokens, texts.size(), difference, largest, before, after);
  if (narrow) info("the merged weights are rounded to 16 bits once, which is where the difference comes from; --dtype float32 keeps them");
  else if (!(difference <= kTolerance * largest))
    fail("{}: the merged model does not answer like base and adapter; do not use it", args.out);
}

double weights_in_fp32(const MergeArgs& args) {
  formats::ModelDirectory directory(args.model);
  double bytes = 0;
  for (const auto& [name, entry] : directory.tensors()) bytes += 4.0 * static_cast<double>(entry.info->count());
  return bytes;
}

}  // namespace

int merge(const MergeArgs& args) {
  const fs::path out = args.out;
  if (fs::exists(out) && !(fs::is_directory(out) && fs::is_empty(out))) refuse("--out: {} exists already; it is not overwritten", args.out);
  bool narrow = false;
  {
    Merge merge(args);
    merge.write(out);
    narrow = merge.narrow();
  }
  info("{}: {} with {}", args.out, args.model, fmt::join(args.adapters, ", "));
  if (!args.check) return 0;
  if (!text::Tokenizer::found_in(args.model) && !text::Tokenizer::found_in(args.adapters.back())) {
    warn("there is no tokenizer to read a text with: the result is not compared");
  } else if (weights_in_fp32(args) > 0.9 * static_cast<double>(available_memory_bytes())) {
    warn("the model does not fit into memory in fp32: the result is not compared. `attune score` with --adapter and without it does so where there is room");
  } else {
    compare(args, narrow);
  }
  return 0;
}

}  // namespace attune::cli
