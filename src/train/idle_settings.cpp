#include "train/idle_settings.h"

#include <algorithm>
#include <map>

#include "train/objective_options.h"
#include "train/optimizer_options.h"

namespace attune::train {
namespace {

bool idle_preference(const Config& c, const std::string& key) {
  const auto uses = [&](std::initializer_list<const char*> losses) {
    return c.stage == "dpo" && std::any_of(losses.begin(), losses.end(), [&](const char* l) { return std::find(c.pref_loss.begin(), c.pref_loss.end(), l) != c.pref_loss.end(); });
  };
  const bool dpo = c.stage == "dpo", kto = c.stage == "kto";
  if (key == "pref_loss" || key == "pref_loss_weights" || key == "pref_ftx" || key == "ld_alpha") return !dpo;
  if (key == "pref_beta") return !dpo && !kto;
  if (key == "dpo_label_smoothing") return !uses({"sigmoid", "robust", "exo_pair", "aot", "sigmoid_norm", "simpo", "cpo"});
  if (key == "simpo_gamma") return !uses({"simpo"});
  if (key == "discopop_tau") return !uses({"discopop"});
  if (key == "cpo_alpha") return !uses({"cpo"});
  if (key == "ref_model") return !(dpo || kto) || !needs_reference(c);
  if (key == "kto_chosen_weight" || key == "kto_rejected_weight" || key == "kto_loss") return !kto;
  return key == "center_rewards_coefficient" && c.stage != "rm";
}

// Of an adapter that is continued its own directory says how it is made.
bool idle_adapter(const Config& c, const std::string& key) {
  static const std::set<std::string> of_new{"lora_rank", "lora_alpha", "lora_dropout", "lora_target", "additional_target", "bias", "rank_pattern",
                                            "alpha_pattern", "layers_to_transform", "use_rslora", "use_dora", "pissa_init", "pissa_iter", "pissa_convert",
                                            "init_lora_weights"};
  const bool lora = c.finetuning_type == "lora", continued = lora && !c.adapter_name_or_path.empty() && !c.create_new_adapter;
  if (of_new.count(key)) return !lora || continued;
  if (key.starts_with("tt_")) return !lora || continued || !c.use_tensor_train;
  if (key == "loraplus_lr_embedding") return !lora || c.loraplus_lr_ratio == 0;
  return !lora && (key.starts_with("loraplus_") || key == "create_new_adapter" || key == "use_tensor_train");
}

}  // namespace

std::vector<std::string> idle_settings(const Config& c, const std::set<std::string>& own) {
  const std::string rule = optimizer_options(c).name;
  const bool adam = rule != "sgd" && rule != "lomo" && rule != "adafactor" && rule != "adalomo" && !rule.starts_with("lion");
  const bool lion = rule.starts_with("lion");
  const bool validation = c.val_size > 0 || !c.eval_dataset.empty() || c.cross_validation > 0;
  const bool freeze = c.finetuning_type == "freeze", by_name = !c.unfrozen_parameters.empty();
  const bool four_bits = c.quantization().four_bits();
  const bool warms_up = c.lr_scheduler_type != "constant";
  const bool tokens = c.row_kind() == data::RowKind::text || c.row_kind() == data::RowKind::conversation;
  const std::map<std::string, bool> idle{
      {"adam_beta1", !adam && !lion}, {"adam_beta2", !adam && !lion}, {"adam_epsilon", !adam},
      {"warmup_ratio", !warms_up || c.warmup_steps > 0}, {"warmup_steps", !warms_up},
      {"freeze_trainable_layers", !freeze || by_name}, {"freeze_trainable_modules", !freeze || by_name},
      {"freeze_extra_modules", !freeze || by_name}, {"unfrozen_parameters", !freeze},
      {"label_smoothing_factor", !tokens}, {"use_dft_loss", !tokens},
      {"num_train_epochs", c.max_steps > 0}, {"max_grad_norm", c.clipping == "off"}, {"clipping", c.max_grad_norm == 0},
      {"template", c.pretraining()}, {"tool_format", c.pretraining()}, {"mask_history", c.row_kind() != data::RowKind::conversation},
      {"train_on_prompt", c.row_kind() != data::RowKind::conversation},
      {"metric_for_best_model", !validation}, {"greater_is_better", !validation}, {"eval_on_start", !validation},
      {"eval_strategy", !validation}, {"eval_steps", !validation || c.eval_strategy == "no" || c.eval_strategy == "epoch"}, {"save_steps", c.save_strategy != "steps"},
      {"early_stopping_threshold", c.early_stopping_patience == 0}, {"cross_validation_model", c.cross_validation == 0},
      {"quantization_type", !four_bits}, {"double_quantization", !four_bits}, {"quantization_method", !c.quantization().on()},
      {"buffer_size", !c.streaming}, {"tokenized_path", !c.token_cache}, {"overwrite_cache", !c.token_cache || (c.streaming && c.eval_dataset.empty())},
      {"generation_max_new_tokens", c.num_generation_samples == 0},
      {"resize_vocab", c.add_tokens.empty() && c.add_special_tokens.empty()},
      {"init_special_tokens", c.add_tokens.empty() && c.add_special_tokens.empty()}};
  std::vector<std::string> names;
  for (const Config::Setting& s : c.settings) {
    const auto it = idle.find(s.key);
    const bool other = idle_adapter(c, s.key) || idle_preference(c, s.key) || (!c.use_badam && s.key.starts_with("badam_")) || (!c.use_galore && s.key.starts_with("galore_")) || (!c.use_apollo && s.key.starts_with("apollo_"));
    if (own.count(s.key) && (other || (it != idle.end() && it->second))) names.push_back(s.key);
  }
  return names;
}

}  // namespace attune::train
