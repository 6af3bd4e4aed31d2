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
#include "models/quantized_base.h"
#include "ops/backend.h"
#include "ops/dequantize.h"
#include "train/config.h"
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

// What is merged: the adapters that have a weight, and how they stand to each other.
struct MergeJob : MergeArgs {
  explicit MergeJob(const MergeArgs& args) : MergeArgs(args), request(adapters_of(args.adapters, args.use)) {
    adapters = request.chain;
    weights.assign(adapters.size(), 1);
    if (request.set.empty()) return;
    const std::vector<double> all = models::parse_weights(request.use, request.set);
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i] != 0) adapters.push_back(request.set[i].directory), weights.push_back(all[i]), names.push_back(request.set[i].name);
    if (adapters.empty()) refuse("--use {}: there is nothing to merge", use);
  }
  bool is_chain() const { return request.set.empty(); }

  models::AdapterRequest request;
  std::vector<double> weights;     // of `adapters`, which are directories
  std::vector<std::string> names;  // of a set
};

DType dtype_of(const formats::TensorInfo& info, const std::string& wanted) {
  return parse_dtype(wanted == "auto" ? info.dtype : wanted, "--dtype");
}

// How the base was held while the adapter was trained: as the command line says, or as the run recorded that left the adapter.
Quantization quantization_of(const MergeJob& args) {
  if (!args.quantization.empty()) return parse_quantization(args.quantization, "--quantization");
  const Quantization last = trained_on(args.adapters.back());
  for (const std::string& adapter : args.adapters)
    if (const Quantization other = trained_on(adapter); !args.is_chain() && text_of(other) != text_of(last))
      refuse("--adapter: {} was trained beside a base held as {}, {} beside one held as {}. Say with --quantization which of them the merged model stands for", adapter,
             text_of(other), args.adapters.back(), text_of(last));
  return last;
}

constexpr const char *kFiles = "16bit", *kDequantized = "dequantized";

void check_base(const MergeJob& args, const Quantization& trained) {
  if (trained.on() && args.base.empty())
    refuse("--base is missing: {} was trained beside a base in {}. --base dequantized adds it to those weights: the merged model answers as the "
           "tuned one did (recommended). --base 16bit adds it to the base as its files have it, without the error of quantisation, which the adapter has learnt to live "
           "with. Either way both are measured", args.adapters.back(), text_of(trained));
  if (!trained.on() && !args.base.empty())
    refuse("--base: {} is not known to have been trained on a quantised base: there is no choice. Leave --base out, or say with --quantization how the base was quantised",
           args.adapters.back());
}

// Streams the tensors of the merged model out of the base's files.
class Merge {
 public:
  // `quantized`: on where adapters are to be added to what quantisation leaves of the weights; the earlier ones of a chain are part of these.
  Merge(const MergeJob& args, const Quantization& quantized)
      : args_(args), base_(args.model), model_(std::make_unique<models::Decoder>(models::adapted_config(base_, args.adapters))) {
    for (size_t i = 0; i < args.adapters.size(); ++i) deltas_.emplace_back(args.adapters[i], args.weights[i]);
    earlier_ = args.is_chain() ? deltas_.size() - 1 : 0;
    for (const auto& d : deltas_)
      for (const std::string& name : d.names())
        if (!model_->parameters().find(name)) refuse("{} changes {}, which the base model does not have; it belongs to another base", fmt::join(args.adapters, ", "), name);
    if (!args.is_chain()) check_sum();
    for (size_t i = earlier_; i < deltas_.size(); ++i)  // what they save as a whole is not quantised
      for (const std::string& name : deltas_[i].replaced()) model_->parameters().find(name)->adapter_name = name;
    models::quantize_layers(*model_, quantized);
  }

  void write(const fs::path& out) {
    const Json config = new_config();
    formats::SaveOptions save;
    save.config = &config;
    const std::string& own = args_.is_chain() ? args_.adapters.back() : args_.adapters.front();  // as when they run beside the base
    if (text::Tokenizer::found_in(own)) save.companions_from = own;
    const auto tensors = sources();
    check_room(tensors, out);
    publish_directory(out, [&](const fs::path& directory) {
      formats::save_model(directory, tensors, save);
      formats::copy_companions(args_.model, directory);
    });
  }
  // The same into memory, in fp32.
  std::unique_ptr<models::Decoder> model() {
    auto model = std::make_unique<models::Decoder>(model_->config());
    model->parameters().allocate_weights(Place::host(), DType::f32);
    for (const auto& source : sources()) {
      const auto n = static_cast<uint64_t>(model->parameters().find(source.name)->count());
      std::vector<char> values(n * size_of(source.to));
      if (source.make) source.make(0, n, values.data());
      else source.file->read(*source.info, source.to, values.data());
      convert(values.data(), source.to, model->parameters().find(source.name)->weight.data, DType::f32, n);
    }
    return model;
  }
  // Whether anything is rounded to 16 bits.
  bool narrow() const { return narrow_; }

 private:
  std::vector<formats::TensorSource> sources() {
    std::vector<formats::TensorSource> all;
    for (const auto& p : model_->parameters().all()) {
      if (p->added) continue;
      const bool copied = p.get() == &model_->head_weight() && model_->config().head_from_embedding;
      const bool replaced = is_replaced(p->name);
      // A head that scores sequences is the adapter's alone; its numbers are those of the base.
      const bool brought = replaced && p.get() == &model_->head_weight() && model_->config().score_is_new;
      const std::string& from = copied || brought ? model_->embedding().name : p->name;
      const auto it = base_.tensors().find(from);
      if (it == base_.tensors().end()) fail("{}: tensor \"{}\" is missing", args_.model, from);
      const auto& [file, info] = it->second;
      if (info->shape != p->shape && !replaced) fail("{}: tensor \"{}\" does not have the shape that config.json asks for", args_.model, from);
      const DType to = dtype_of(*info, args_.dtype);
      narrow_ |= to != DType::f32;
      formats::TensorSource source{p->name, p->shape, nullptr, to, to, replaced ? nullptr : file, replaced ? nullptr : info};
      if (p->is_quantized() || std::any_of(deltas_.begin(), deltas_.end(), [&](const auto& d) { return d.changes(p->name); })) {
        source.make = [this, p = p.get(), file = file, info = info, to](uint64_t first, uint64_t n, void* out) { make(*p, *file, *info, to, first, n, out); };
      }
      all.push_back(std::move(source));
    }
    return all;
  }

  void check_sum() const {
    std::vector<models::Summand> summands;
    for (size_t i = 0; i < deltas_.size(); ++i) summands.push_back({args_.names[i], args_.weights[i], deltas_[i].config().use_dora, deltas_[i].names(), deltas_[i].replaced()});
    models::check_sum(summands);
  }

  bool is_replaced(const std::string& name) const {
    return std::any_of(deltas_.begin(), deltas_.end(), [&](const auto& d) { return d.replaces(name); });
  }

  // Elements [first, first + n): the rows that hold them, in fp32, rounded once.
  void make(const nn::Parameter& p, const formats::TensorFile& file, const formats::TensorInfo& info, DType to, uint64_t first, uint64_t n, void* out) {
    const auto cols = static_cast<uint64_t>(p.shape.back());
    const uint64_t row = first / cols, rows = (first + n + cols - 1) / cols - row;
    rows_.resize(rows * cols);
    base_rows(p, file, info, static_cast<int64_t>(row), static_cast<int64_t>(rows), rows_.data());
    for (size_t i = earlier_; i < deltas_.size(); ++i) deltas_[i].apply(p.name, p.shape, static_cast<int64_t>(row), static_cast<int64_t>(rows), rows_.data());
    convert(rows_.data() + (first - row * cols), DType::f32, out, to, n);
  }

  // What the last adapter of a chain, or a set, is added to.
  void base_rows(const nn::Parameter& p, const formats::TensorFile& file, const formats::TensorInfo& info, int64_t first, int64_t rows, float* out) {
    const auto with_earlier = [&](int64_t row, int64_t n, float* into) {
      const int64_t cols = p.shape.back();
      if (!is_replaced(p.name)) file.read(info, DType::f32, static_cast<uint64_t>(row * cols), static_cast<uint64_t>(n * cols), into);
      for (size_t i = 0; i < earlier_; ++i) deltas_[i].apply(p.name, p.shape, row, n, into);
    };
    if (!p.is_quantized()) return with_earlier(first, rows, out);
    if (packed_name_ != p.name) {
      packed_arena_ = std::make_unique<Arena>(Place::host(), QuantizedMatrix::bytes(p.quantized.how, p.shape[0], p.shape[1]));
      packed_ = QuantizedMatrix::over(packed_arena_->allocate(packed_arena_->capacity()), p.quantized.how, p.shape[0], p.shape[1]);
      models::quantize(packed_, p.name, with_earlier);
      packed_name_ = p.name;
    }
    ops::Context context(ops::cpu_backend(), *packed_arena_);
    ops::dequantize(context, {packed_, first, 0, Tensor::matrix(out, DType::f32, rows, packed_.cols)});
  }

  Json new_config() const {
    const models::DecoderConfig& c = model_->config();
    Json config = c.score_is_new ? models::scoring_config(base_.config(), c.num_labels, c.eos_token_ids.empty() ? -1 : c.eos_token_ids[0]) : base_.config();
    if (c.head_from_embedding) config["tie_word_embeddings"] = false;
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

  const MergeJob& args_;
  formats::ModelDirectory base_;
  std::unique_ptr<models::Decoder> model_;
  std::vector<models::AdapterDelta> deltas_;
  size_t earlier_ = 0;  // of them are part of the base that the others are added to
  std::vector<float> rows_;
  std::unique_ptr<Arena> packed_arena_;  // of the tensor that is being written, where the base is quantised
  QuantizedMatrix packed_;
  std::string packed_name_;
  bool narrow_ = false;
};

std::vector<std::vector<int32_t>> texts_of(const MergeJob& args, const text::Tokenizer& tokenizer) {
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
  std::vector<std::vector<float>> logits;  // of a model that scores sequences: its scores
  double nll = 0;
  size_t tokens = 0;
};

Answers answers_of(infer::Session& session, const std::vector<std::vector<int32_t>>& texts) {
  Answers a;
  for (const auto& ids : texts) {
    if (session.model().config().num_labels > 0) {
      a.logits.push_back(session.sequence_scores(ids));
      a.tokens += ids.size();
      continue;
    }
    a.logits.push_back(session.logits(ids));
    for (float x : session.score(ids)) a.nll += x, ++a.tokens;
  }
  return a;
}

struct Difference {
  double most = 0, largest = 0;  // of a logit; the largest logit itself
  double loss = 0;
};

Difference difference_of(const Answers& expected, const Answers& got) {
  Difference d;
  for (size_t t = 0; t < expected.logits.size(); ++t)
    for (size_t i = 0; i < expected.logits[t].size(); ++i) {
      d.most = std::max(d.most, static_cast<double>(std::abs(expected.logits[t][i] - got.logits[t][i])));
      d.largest = std::max(d.largest, static_cast<double>(std::abs(expected.logits[t][i])));
    }
  d.loss = got.nll / static_cast<double>(got.tokens);
  return d;
}

// The base that was not chosen, measured the same way; its model is never written.
void compare_other(const MergeJob& args, const Quantization& trained, const Answers& adapted, const std::vector<std::vector<int32_t>>& texts) {
  const bool files = args.base == kDequantized;
  const auto model = Merge(args, files ? Quantization{} : trained).model();
  infer::Session session(*model, DType::f32, args.model);
  const Difference d = difference_of(adapted, answers_of(session, texts));
  info("with --base {} instead: largest difference {:.2g}{}", files ? kFiles : kDequantized, d.most, adapted.nll > 0 ? fmt::format(", loss {:.5f}", d.loss) : "");
}

// One model at a time, so that it takes no more than running one.
void compare(const MergeJob& args, const Quantization& trained, bool narrow) {
  std::vector<std::vector<int32_t>> texts;
  Answers adapted;
  {
    infer::Generator generator(args.model, DType::f32, args.request, trained);
    texts = texts_of(args, generator.tokenizer());
    adapted = answers_of(generator.session(), texts);
  }
  if (adapted.tokens == 0) return warn("--file: no text of two tokens or more: nothing is compared");
  Difference d;
  {
    infer::Generator generator(args.out, DType::f32);
    d = difference_of(adapted, answers_of(generator.session(), texts));
  }
  const std::string held = trained.on() ? fmt::format(" on the base in {}", text_of(trained)) : "", with = trained.on() ? fmt::format(" with --base {}", args.base) : "";
  if (adapted.nll > 0)
    info("on {} tokens of {} texts: largest difference of a logit {:.2g} (the largest logit is {:.3g}); loss {:.5f} with the adapter{}, {:.5f} merged{}",
         adapted.tokens, texts.size(), d.most, d.largest, adapted.nll / static_cast<double>(adapted.tokens), held, d.loss, with);
  else
    info("on {} texts: largest difference of a score {:.2g} (the largest score is {:.3g}) between the adapter{} and the merged model{}", texts.size(), d.most, d.largest, held, with);
  if (trained.on()) compare_other(args, trained, adapted, texts);
  if (args.base == kFiles) return;  // another base than the adapter's: it must differ
  if (narrow) info("the merged weights are rounded to 16 bits once, which is where the difference comes from; --dtype float32 keeps them");
  else if (!(d.most <= kTolerance * d.largest))
    fail("{}: the merged model does not answer like base and adapter; do not use it", args.out);
}

double weights_in_fp32(const MergeJob& args) {
  formats::ModelDirectory directory(args.model);
  double bytes = 0;
  for (const auto& [name, entry] : directory.tensors()) bytes += 4.0 * static_cast<double>(entry.info->count());
  return bytes;
}

}  // namespace

int merge(const MergeArgs& given) {
  const MergeJob args(given);
  const fs::path out = args.out;
  if (fs::exists(out) && !(fs::is_directory(out) && fs::is_empty(out))) refuse("--out: {} exists already; it is not overwritten", args.out);
  const Quantization trained = quantization_of(args);
  check_base(args, trained);
  bool narrow = false;
  {
    Merge merge(args, args.base == kDequantized ? trained : Quantization{});
    merge.write(out);
    narrow = merge.narrow();
  }
  info("{}: {}{} with {}", args.out, args.model, trained.on() ? fmt::format(" ({})", args.base == kDequantized ? "dequantised from " + text_of(trained) : "as its files have it") : "",
       args.names.empty() || args.request.use.empty() ? fmt::format("{}", fmt::join(args.adapters, ", ")) : args.request.use);
  if (!args.check) return 0;
  if (!text::Tokenizer::found_in(args.model) && !text::Tokenizer::found_in(args.adapters.back())) {
    warn("there is no tokenizer to read a text with: the result is not compared");
  } else if (weights_in_fp32(args) > 0.9 * static_cast<double>(available_memory_bytes())) {
    warn("the model does not fit into memory in fp32: the result is not compared. `attune score` with --adapter and without it does so where there is room");
  } else {
    compare(args, trained, narrow);
  }
  return 0;
}

}  // namespace attune::cli
