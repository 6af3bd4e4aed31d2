// init, score; rewards have a file of their own.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "infer/generator.h"
#include "models/families/family.h"
#include "models/load.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {
namespace {

// As a floating-point number: sizes out of an absurd config.json do not fit into an integer.
double shape_count(const std::vector<int64_t>& shape) {
  double n = 1;
  for (int64_t s : shape) n *= static_cast<double>(s);
  return n;
}

}  // namespace

int init(const InitArgs& args) {
  const DType dtype = parse_dtype(args.dtype, "--dtype");
  if (dtype == DType::f16) refuse("--dtype: float16 is not available here; use float32 or bf16");
  Json config = read_json(args.config);
  models::Decoder model(models::parse_config(config, args.config));
  if (fs::exists(fs::path(args.out) / "config.json") && fs::exists(fs::path(args.out) / "model.safetensors"))
    refuse("--out: {} already holds a model; it is not overwritten", args.out);
  double bytes = 0;
  for (const auto& p : model.parameters().all()) bytes += static_cast<double>(size_of(dtype)) * shape_count(p->shape);
  fs::path there = fs::absolute(args.out);
  while (!fs::exists(there) && there.has_relative_path()) there = there.parent_path();
  if (const auto free = fs::space(there).available; bytes > static_cast<double>(free))
    fail("{}: this model takes {:.1f} GB, on the disk of {} are {} free", args.config, bytes / 1e9, args.out, format_bytes(free));
  fs::create_directories(args.out);
  config[config.contains("dtype") && !config.contains("torch_dtype") ? "dtype" : "torch_dtype"] = name_of(dtype);
  formats::SaveOptions save;
  save.config = &config;
  save.companions_from = args.tokenizer;
  formats::save_model(args.out, models::initial_tensors(model, dtype, static_cast<uint64_t>(args.seed)), save);
  info("{}: {} parameters, {}", args.out, model.parameters().count(), name_of(dtype));
  return 0;
}

int score(const ScoreArgs& args) {
  if (args.reward) return reward(args);
  if (!args.chat_template.empty()) refuse("--template goes with --reward: without it each line is scored as it stands");
  const models::AdapterRequest adapters = adapters_of(args.adapters, args.use);
  const Quantization quantization = parse_quantization(args.quantization, "--quantization");
  note_base(adapters, quantization);
  infer::Generator generator(args.model, parse_dtype(args.compute, "--compute"), adapters, quantization, ops::choose_backend(args.device));
  const text::Tokenizer& tokenizer = generator.tokenizer();
  const auto lines = read_lines(args.file);
  for (size_t i = 0; i < lines.size(); ++i) {
    std::vector<int32_t> ids;
    if (args.ids) {
      ids = read_ids(lines[i], fmt::format("{}:{}", args.file, i + 1), generator.model().config().vocab_size);
    } else {
      text::EncodeOptions encode;
      encode.add_special_tokens = true;
      ids = tokenizer.encode(lines[i], encode).ids;
    }
    if (const int64_t most = generator.model().config().max_position_embeddings; static_cast<int64_t>(ids.size()) > most)
      warn("{}:{}: {} tokens, but the model was made for {} (max_position_embeddings)", args.file, i + 1, ids.size(), most);
    const auto nll = generator.score(ids);
    Json tokens = Json::array();
    for (int32_t id : ids) tokens.push_back(tokenizer.id_to_token(id));
    const double sum = std::accumulate(nll.begin(), nll.end(), 0.0);
    Json row = {{"tokens", tokens}, {"ids", ids}, {"nll", nll}, {"mean_nll", nll.empty() ? Json(nullptr) : Json(sum / static_cast<double>(nll.size()))}};
    fmt::print("{}\n", dump_json(row));
  }
  return 0;
}

}  // namespace attune::cli
