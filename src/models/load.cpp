#include "models/load.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "models/families/family.h"
#include "models/quantized_base.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::models {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool skippable(const std::string& name, const DecoderConfig& c) {
  const bool no_head = c.tie_word_embeddings || c.head_from_embedding || c.num_labels > 0;
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") || (no_head && name == "lm_head.weight");
}

void begin_score(const Decoder& model, nn::Parameter& score);

}  // namespace

namespace {

void fill(nn::Parameter& p, const formats::TensorFile& file, const formats::TensorInfo& info) {
  if (p.is_quantized())
    return quantize(p, [&](int64_t first, int64_t n, float* out) {
      const int64_t cols = p.quantized.cols;
      file.read(info, DType::f32, static_cast<uint64_t>(first * cols), static_cast<uint64_t>(n * cols), out);
    });
  const Tensor& to = p.stepped();
  const uint64_t size = size_of(to.dtype);
  write_pieces(*p.device, to.data, info.count() * size, [&](uint64_t at, std::span<char> piece) {
    file.read(info, to.dtype, at / size, piece.size() / size, piece.data());
  });
  p.refresh();
}

}  // namespace

std::unique_ptr<Decoder> declare(const formats::ModelDirectory& directory) {
  const std::string where = (directory.path() / "config.json").string();
  return std::make_unique<Decoder>(parse_config(directory.config(), where));
}

void load_weights(Decoder& model, formats::ModelDirectory& directory) {
  const auto& tensors = directory.tensors();
  std::set<std::string> unused;
  for (const auto& [name, entry] : tensors)
    if (!skippable(name, model.config())) unused.insert(name);
  for (const auto& p : model.parameters().all()) {
    if (p->added) continue;
    const bool copied = p.get() == &model.head_weight() && model.config().head_from_embedding;
    if (p.get() == &model.head_weight() && model.config().score_is_new && !tensors.contains(p->name)) {
      begin_score(model, *p);
      continue;
    }
    const auto it = tensors.find(copied ? model.embedding().name : p->name);
    if (it == tensors.end())
      fail("{}: tensor \"{}\" is missing ({} expected by config.json)", directory.path().string(), p->name, shape_text(p->shape));
    const auto& [file, info] = it->second;
    std::vector<int64_t> stored = p->shape;  // of a vocabulary that has grown; its new rows are filled elsewhere
    if (p->is_table && model.config().stored_vocab_size > 0) stored[0] = model.config().stored_vocab_size;
    if (info->shape != p->shape && info->shape != stored)
      fail("{}: tensor \"{}\" has shape {} but config.json asks for {}", file->path().string(), p->name,
           shape_text(info->shape), shape_text(p->shape));
    fill(*p, *file, *info);
    unused.erase(p->name);
  }
  if (!unused.empty())
    fail("{}: holds {} tensors that this architecture does not have, first \"{}\"; config.json and weights do not belong "
         "together", directory.path().string(), unused.size(), *unused.begin());
}

namespace {

void put(float& to, float x) { to = x; }
void put(BFloat16& to, float x) { to = to_bf16(x); }

// Calls f with a null pointer of the element type.
template <class F>
void with_element(DType dtype, F&& f) {
  if (dtype == DType::f32) f(static_cast<float*>(nullptr));
  else if (dtype == DType::bf16) f(static_cast<BFloat16*>(nullptr));
  else fail("internal error: weights cannot be initialised as {}", name_of(dtype));
}

// Elements [first, first + n) of a tensor as transformers initialises it. `first` is a multiple of 4, of which one block
// of random words makes as many.
template <class T>
void initial_values(const DecoderConfig& config, const std::string& name, uint64_t seed, int64_t first, int64_t n, T* out) {
  const uint64_t key = mix_key(seed, hash64(name));
  const bool norm = name.ends_with("norm.weight"), bias = name.ends_with(".bias");
  if (norm || bias) {
    for (int64_t i = 0; i < n; ++i) put(out[i], norm ? 1.0f - config.norm_offset : 0.0f);
    return;
  }
  const float std = config.initializer_range;
#pragma omp parallel for schedule(static)
  for (int64_t at = 0; at < n; at += 4) {
    const PhiloxBlock r = philox(key, static_cast<uint64_t>((first + at) / 4), 0);
    const auto a = normal_pair(r[0], r[1]), b = normal_pair(r[2], r[3]);
    const float values[4] = {a[0], a[1], b[0], b[1]};
    for (int64_t i = at; i < std::min(n, at + 4); ++i) put(out[i], std * values[i - at]);
  }
}

// As transformers begins a new head; the same numbers in every run.
void begin_score(const Decoder& model, nn::Parameter& score) {
  std::vector<float> values(static_cast<size_t>(score.count()));
  initial_values(model.config(), score.name, 0, 0, score.count(), values.data());
  score.set(0, values);
}

}  // namespace

void initialise_weights(Decoder& model, uint64_t seed) {
  for (const auto& p : model.parameters().all()) {
    if (p->is_quantized()) {
      quantize(*p, [&](int64_t first, int64_t n, float* out) {
        initial_values(model.config(), p->name, seed, first * p->quantized.cols, n * p->quantized.cols, out);
      });
      continue;
    }
    with_element(p->weight.dtype, [&](auto* element) {
      const uint64_t bytes = static_cast<uint64_t>(p->count()) * sizeof *element;
      write_pieces(*p->device, p->weight.data, bytes, [&](uint64_t at, std::span<char> piece) {
        initial_values(model.config(), p->name, seed, static_cast<int64_t>(at / sizeof *element), static_cast<int64_t>(piece.size() / sizeof *element),
                       reinterpret_cast<decltype(element)>(piece.data()));
      });
    });
  }
}

std::vector<formats::TensorSource> initial_tensors(const Decoder& model, DType dtype, uint64_t seed) {
  std::vector<formats::TensorSource> sources;
  for (const auto& p : model.parameters().all()) {
    formats::TensorSource source{p->name, p->shape, nullptr, dtype, dtype};
    source.make = [&config = model.config(), name = p->name, dtype, seed](uint64_t first, uint64_t n, void* out) {
      with_element(dtype, [&](auto* element) {
        initial_values(config, name, seed, static_cast<int64_t>(first), static_cast<int64_t>(n), static_cast<decltype(element)>(out));
      });
    };
    sources.push_back(source);
  }
  return sources;
}

std::vector<formats::TensorSource> tensor_sources(const Decoder& model, DType save_dtype, formats::ModelDirectory* base) {
  std::vector<formats::TensorSource> sources;
  for (const auto& p : model.parameters().all()) {
    if (p->added) continue;
    const Tensor& t = p->stepped();
    formats::TensorSource source{p->name, p->shape, t.data, t.dtype, save_dtype};
    source.device = p->device;
    if (base && !p->learns() && t.dtype != DType::f32 && t.dtype != save_dtype)
      if (const auto it = base->tensors().find(p->name); it != base->tensors().end() && it->second.info->shape == p->shape)
        source.file = it->second.file, source.info = it->second.info;
    sources.push_back(source);
  }
  return sources;
}

}  // namespace attune::models
