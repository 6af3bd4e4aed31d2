#include "models/load.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "models/families/family.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::models {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool skippable(const std::string& name, bool tied) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") || (tied && name == "lm_head.weight");
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
    if (!skippable(name, model.config().tie_word_embeddings)) unused.insert(name);
  for (const auto& p : model.parameters().all()) {
    const auto it = tensors.find(p->name);
    if (it == tensors.end())
      fail("{}: tensor \"{}\" is missing ({} expected by config.json)", directory.path().string(), p->name, shape_text(p->shape));
    const auto& [file, info] = it->second;
    if (info->shape != p->shape)
      fail("{}: tensor \"{}\" has shape {} but config.json asks for {}", file->path().string(), p->name,
           shape_text(info->shape), shape_text(p->shape));
    Tensor& first = p->stepped();
    file->read(*info, first.dtype, first.data);
    if (p->master.defined())
      convert(p->master.data, DType::f32, p->weight.data, p->weight.dtype, static_cast<size_t>(p->count()));
    unused.erase(p->name);
  }
  if (!unused.empty())
    fail("{}: holds {} tensors that this architecture does not have, first \"{}\"; config.json and weights do not belong "
         "together", directory.path().string(), unused.size(), *unused.begin());
}

void initialise_weights(Decoder& model, uint64_t seed) {
  for (const auto& p : model.parameters().all()) {
    const uint64_t key = mix_key(seed, hash64(p->name));
    const bool norm = p->name.ends_with("norm.weight"), bias = p->name.ends_with(".bias");
    const int64_t n = p->count();
    const float std = model.config().initializer_range;
    const auto put = [&](int64_t i, float x) {
      if (p->weight.dtype == DType::f32) p->weight.as<float>()[i] = x;
      else p->weight.as<BFloat16>()[i] = to_bf16(x);
    };
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (n + 3) / 4; ++block) {
      const PhiloxBlock r = philox(key, static_cast<uint64_t>(block), 0);
      const auto a = normal_pair(r[0], r[1]), b = normal_pair(r[2], r[3]);
      const float values[4] = {a[0], a[1], b[0], b[1]};
      for (int64_t i = block * 4; i < std::min(n, block * 4 + 4); ++i)
        put(i, norm ? 1.0f - model.config().norm_offset : bias ? 0.0f : std * values[i - block * 4]);
    }
  }
}

std::vector<formats::TensorSource> tensor_sources(const Decoder& model, DType save_dtype, formats::ModelDirectory* base) {
  std::vector<formats::TensorSource> sources;
  for (const auto& p : model.parameters().all()) {
    const Tensor& t = p->stepped();
    formats::TensorSource source{p->name, p->shape, t.data, t.dtype, save_dtype};
    if (base && !p->learns() && t.dtype != DType::f32 && t.dtype != save_dtype)
      if (const auto it = base->tensors().find(p->name); it != base->tensors().end())
        source.file = it->second.file, source.info = it->second.info;
    sources.push_back(source);
  }
  return sources;
}

}  // namespace attune::models
