#include "train/checkpoint.h"

#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/load.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/log.h"

namespace attune::train {
namespace {

constexpr const char* kManifest = "attune_checkpoint.json";
constexpr const char* kState = "attune_state.json";
constexpr const char* kOptimizer = "optimizer.safetensors";

std::string file_hash(const fs::path& file) {
  FileReader reader(file);
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  std::vector<char> buffer(1 << 20);
  for (uint64_t at = 0; at < reader.size();) {
    const uint64_t n = std::min<uint64_t>(buffer.size(), reader.size() - at);
    reader.read_at(at, buffer.data(), n);
    XXH3_64bits_update(state, buffer.data(), n);
    at += n;
  }
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}", hash);
}

// checkpoint-<N> → N.
std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with("checkpoint-") || name.size() > 30) return std::nullopt;
  const std::string digits = name.substr(11);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos || digits.size() > 18) return std::nullopt;
  return std::stoll(digits);
}

std::vector<std::pair<int64_t, fs::path>> checkpoints(const fs::path& output_dir) {
  std::vector<std::pair<int64_t, fs::path>> found;
  if (!fs::is_directory(output_dir)) return found;
  for (const auto& entry : fs::directory_iterator(output_dir))
    if (const auto step = step_of(entry.path()); step && entry.is_directory()) found.emplace_back(*step, entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

void write_states(const fs::path& file, const CheckpointContent& c) {
  std::vector<formats::TensorSource> tensors;
  for (const auto& s : c.optimizer->states()) {
    tensors.push_back({s.name, s.shape, s.tensor.data, s.tensor.dtype, s.tensor.dtype});
    tensors.back().device = &c.optimizer->device();
  }
  for (const auto& p : c.model->parameters().all()) {
    const Tensor& stepped = p->stepped();
    if (!p->learns() || stepped.dtype == c.save_dtype) continue;
    tensors.push_back({p->name + ".weight_fp32", p->shape, stepped.data, stepped.dtype, DType::f32});
    tensors.back().device = p->device;
  }
  formats::write_safetensors(file, std::move(tensors));
}

void read_exactly(const formats::SafetensorsFile& file, const std::string& name, const std::vector<int64_t>& shape, DType dtype, Device& device,
                  void* into) {
  const auto* info = file.find(name);
  if (!info || info->shape != shape || info->dtype != (dtype == DType::bf16 ? "BF16" : dtype == DType::u8 ? "U8" : "F32"))
    fail("{}: holds no {} tensor \"{}\" of the expected shape; the checkpoint belongs to another model or optimizer",
         file.path().string(), name_of(dtype), name);
  write_pieces(device, into, info->bytes, [&](uint64_t at, std::span<char> piece) { file.read_raw(*info, at, piece.size(), piece.data()); });
}

}  // namespace

void write_checkpoint(const fs::path& output_dir, int64_t step, const CheckpointContent& c) {
  publish_directory(output_dir / fmt::format("checkpoint-{}", step), [&](const fs::path& directory) {
    c.save_model(directory);
    if (c.optimizer) write_states(directory / kOptimizer, c);
    write_file(directory / "trainer_state.json", c.trainer_state);
    write_file(directory / kState, c.state);
    Json manifest;
    manifest["format"] = 1;
    manifest["files"] = Json::object();
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
      manifest["files"][file.filename().string()] = {{"bytes", fs::file_size(file)}, {"xxh3_64", file_hash(file)}};
    write_file(directory / kManifest, manifest.dump(2) + "\n");
  });
}

std::string verify_checkpoint(const fs::path& checkpoint) {
  try {
    const Json manifest = read_json(checkpoint / kManifest);
    if (!manifest.contains("files") || !manifest["files"].is_object()) return "its manifest is damaged";
    for (const auto& [name, entry] : manifest["files"].items()) {
      const fs::path file = safe_child(checkpoint, name, kManifest);
      if (!fs::exists(file)) return name + " is missing";
      if (fs::file_size(file) != entry.value("bytes", uint64_t{0})) return name + " has the wrong size";
      if (file_hash(file) != entry.value("xxh3_64", std::string())) return name + " is damaged";
    }
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

std::optional<fs::path> newest_checkpoint(const fs::path& output_dir) {
  auto all = checkpoints(output_dir);
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    if (!fs::exists(it->second / kOptimizer)) {
      warn("{} has no optimizer state (save_only_model) and cannot be resumed; looking for an older one", it->second.string());
      continue;
    }
    const std::string problem = verify_checkpoint(it->second);
    if (problem.empty()) return it->second;
    warn("{} is not intact ({}); looking for an older one", it->second.string(), problem);
  }
  return std::nullopt;
}

Json read_checkpoint_state(const fs::path& checkpoint) { return read_json(checkpoint / kState); }

void load_tuned(const fs::path& directory, models::Decoder& model) {
  if (formats::is_adapter(directory)) return tuning::load_adapter(directory, model);
  formats::ModelDirectory files(directory);
  models::load_weights(model, files);
}

void load_checkpoint(const fs::path& checkpoint, models::Decoder& model, optim::Optimizer& optimizer) {
  if (!fs::exists(checkpoint / kOptimizer))
    refuse("resume_from_checkpoint: {} has no optimizer state (save_only_model) and cannot be resumed; begin a new run with it as model_name_or_path (an adapter: "
           "adapter_name_or_path)", checkpoint.string());
  load_tuned(checkpoint, model);
  formats::SafetensorsFile states(checkpoint / kOptimizer);
  for (const auto& s : optimizer.states()) read_exactly(states, s.name, s.shape, s.tensor.dtype, optimizer.device(), s.tensor.data);
  for (const auto& p : model.parameters().all()) {
    Tensor& stepped = p->stepped();
    if (!states.find(p->name + ".weight_fp32")) continue;
    if (stepped.dtype != DType::f32) {  // saved wider than it is held: the model file has the same bits
      const auto& info = *states.find(p->name + ".weight_fp32");
      const uint64_t size = size_of(stepped.dtype);
      write_pieces(*p->device, stepped.data, stepped.bytes(), [&](uint64_t at, std::span<char> piece) {
        states.read(info, stepped.dtype, at / size, piece.size() / size, piece.data());
      });
      continue;
    }
    read_exactly(states, p->name + ".weight_fp32", p->shape, DType::f32, *p->device, stepped.data);
    p->refresh();
  }
}

void remove_checkpoint(const fs::path& output_dir, int64_t step) {
  const fs::path checkpoint = output_dir / fmt::format("checkpoint-{}", step), going = output_dir / (".old-" + checkpoint.filename().string());
  if (!fs::is_directory(checkpoint)) return;
  // First out of sight, then away: a run that is killed in between leaves no half checkpoint behind.
  fs::rename(checkpoint, going);
  fs::remove_all(going);
}

void remove_checkpoints(const fs::path& output_dir) {
  for (const auto& [step, path] : checkpoints(output_dir)) remove_checkpoint(output_dir, step);
}

void prune_checkpoints(const fs::path& output_dir, int64_t limit, int64_t best_step) {
  for (const auto& entry : fs::directory_iterator(output_dir)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".tmp-checkpoint-") || name.starts_with(".old-checkpoint-")) fs::remove_all(entry.path());
  }
  if (limit <= 0) return;
  auto all = checkpoints(output_dir);
  for (size_t i = 0; i + static_cast<size_t>(limit) < all.size(); ++i)
    if (all[i].first != best_step) remove_checkpoint(output_dir, all[i].first);
}

}  // namespace attune::train
