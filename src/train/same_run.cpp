#include "train/same_run.h"

#include <omp.h>

#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/log.h"

namespace attune::train {
namespace {

// What a checkpoint of an earlier version does not say: switches were off, everything was trained, the precision is open.
Json unsaid(const std::string& key, const Json& now, const models::Decoder& model) {
  if (now.is_boolean()) return false;
  if (key == "trainable_parameters") return model.parameters().count();
  if (key == "quantization") return text_of(Quantization{});
  if (key == "precision" || key == "finetuning_type") return now;
  return "unknown";
}

}  // namespace

Json order_settings(const RunSetup& setup, const models::Decoder& model) {
  const Config& config = setup.config;
  return {{"train_data", setup.stream ? setup.stream->fingerprint() : setup.train_set->fingerprint()},
          {"seed", config.seed},
          {"data_seed", config.data_seed.value_or(config.seed)},
          {"per_device_train_batch_size", config.per_device_train_batch_size},
          {"gradient_accumulation_steps", config.gradient_accumulation_steps},
          {"packing", config.packing},
          {"group_by_length", config.group_by_length},
          {"dataloader_drop_last", config.dataloader_drop_last},
          {"disable_shuffling", config.disable_shuffling},
          {"cutoff_len", config.cutoff_len},
          {"optim", setup.engine.optimizer.name},
          {"use_badam", config.use_badam},
          {"finetuning_type", config.finetuning_type},
          {"quantization", text_of(setup.engine.tuning.quantization)},
          {"optimizer_in_backward", setup.engine.optimizer_in_backward},
          {"precision", config.pure_bf16 ? "pure_bf16" : config.fp16 ? "fp16" : config.bf16 ? "bf16" : "fp32"},
          {"trainable_parameters", model.parameters().trainable_count()}};
}

void check_same_run(const fs::path& checkpoint, const Json& state, const RunSetup& setup, const models::Decoder& model) {
  const Json now = order_settings(setup, model);
  const Json then = state.contains("order") ? state["order"] : Json::object();
  for (const auto& [key, value] : now.items()) {
    const Json before = then.contains(key) ? then[key] : unsaid(key, value, model);
    if (before != value)
      refuse("{}: {} was {} when this checkpoint was written and is {} now; the run cannot continue where it was. Restore the "
             "setting or the data, or start afresh", checkpoint.string(), key, before.dump(), value.dump());
  }
  if (state.value("threads", 0) != omp_get_max_threads())
    notice("the checkpoint was written with {} threads, this process has {}: results will agree within rounding, not bit for bit",
           state.value("threads", 0), omp_get_max_threads());
}

}  // namespace attune::train
