#include "train/result.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/load.h"
#include "ops/backend.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/machine.h"

namespace attune::train {
namespace {

Json hashes_of(const std::vector<fs::path>& files) {
  Json out = Json::object();
  for (const fs::path& file : files) out[file.filename().string()] = {{"bytes", fs::file_size(file)}, {"sha256", sha256_file(file)}};
  return out;
}

std::vector<fs::path> model_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name == "config.json" || name == "adapter_config.json" || name == "adapter_model.safetensors" || name == tuning::kCoresFile || (name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"))))
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void save_tuned(const fs::path& directory, const RunSetup& s, const models::Decoder& model) {
  formats::SaveOptions o;
  o.config = s.saved_config.get();
  o.companions_from = s.vocabulary.directory;
  // Whoever loads the result must talk to it the way it was tuned.
  if (s.chat && !s.config.chat_template.empty()) o.chat_template = s.chat->jinja_source();
  if (!s.engine.tuning.adapts()) return formats::save_model(directory, models::tensor_sources(model, s.save_dtype, s.directory.get()), o);
  tuning::save_adapter(directory, s.engine.tuning.lora, model, s.save_dtype);
  formats::save_companions(directory, o);
}

void save_result(const RunSetup& s, const models::Decoder& model) {
  const fs::path output = s.config.output_dir, temporary = output / ".tmp-model";
  fs::remove_all(temporary);
  fs::create_directory(temporary);
  try {
    save_tuned(temporary, s, model);
  } catch (...) {  // on a full disk, what is half there only takes room
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(temporary)) files.push_back(entry.path());
  for (const fs::path& file : files) {
    sync_path(file);
    fs::rename(file, output / file.filename());
  }
  // Weights of an earlier result in other shards would be taken for ours.
  for (const fs::path& old : model_files(output))
    if (std::none_of(files.begin(), files.end(), [&](const fs::path& f) { return f.filename() == old.filename(); })) fs::remove(old);
  sync_path(output);
  fs::remove_all(temporary);
}

void write_manifest(const RunSetup& s, int64_t steps) {
  Json m;
  m["format"] = 1;
  m["attune_version"] = ATTUNE_VERSION;
  m["stage"] = s.config.stage;
  m["finetuning_type"] = s.config.finetuning_type;
  m["base"] = {{"path", s.config.model_name_or_path}, {"files", hashes_of(model_files(s.config.model_name_or_path))}};
  m["base"]["quantization"] = text_of(s.engine.tuning.quantization);
  m["data"] = Json::array();
  for (const std::string& file : s.data_files) {
    m["data"].push_back({{"path", file}, {"bytes", fs::file_size(file)}});
    // A stream may be larger than anybody would read once more.
    if (!s.stream) m["data"].back()["sha256"] = sha256_file(file);
  }
  if (s.stream) m["training_tokens"] = {{"fingerprint", s.stream->fingerprint()}, {"buffer_size", s.stream->buffer_size()}};
  else m["training_tokens"] = {{"fingerprint", s.train_set->fingerprint()}, {"samples", s.train_set->size()}, {"tokens", s.train_set->total_tokens()}};
  m["configuration_sha256"] = sha256_hex(s.config.resolved_yaml());
  m["seed"] = s.config.seed;
  m["steps"] = steps;
  m["machine"] = {{"backend", s.engine.backend->name}, {"threads", omp_get_max_threads()}, {"processor", processor_name()}};
  m["result"] = {{"files", hashes_of(model_files(s.config.output_dir))}};
  write_file_atomic(fs::path(s.config.output_dir) / "attune_manifest.json", m.dump(2) + "\n");
}

void clear_previous_run(const fs::path& output) {
  // Only what a run of ours marks as its own; a directory without the mark keeps everything.
  if (!fs::exists(output / "attune_config.yaml")) return;
  std::vector<fs::path> going;
  if (fs::exists(output / "attune_manifest.json")) going = model_files(output);
  for (const auto& entry : fs::directory_iterator(output)) {
    const std::string name = entry.path().filename().string();
    const bool ours = (name.starts_with("checkpoint-") && fs::exists(entry.path() / "attune_checkpoint.json")) ||
                      name.starts_with(".tmp-checkpoint-") || name.starts_with(".old-checkpoint-") || name == ".tmp-model" ||
                      name == "trainer_log.jsonl" || name == "trainer_state.json" || name == "train_results.json" ||
                      name == "generated_predictions.jsonl" || name == "generated_samples.jsonl" || name == "cross_validation.json" || name == "fold_result.json" ||
                      name == "eval_results.json" || name == "all_results.json" || name == "training_loss.svg" ||
                      name == "attune_manifest.json" || name == "attune_config.yaml" || name == "data_report.jsonl" ||
                      name == "reference_logps.safetensors" || name == "reference_logps.safetensors.tmp";
    if (ours) going.push_back(entry.path());
  }
  if (fs::is_directory(output / "runs"))
    for (const auto& entry : fs::directory_iterator(output / "runs"))
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) going.push_back(entry.path());
  for (const fs::path& path : going) fs::remove_all(path);
}

}  // namespace attune::train
