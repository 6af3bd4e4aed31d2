#include "train/lora_options.h"

#include <charconv>

#include "train/objective_options.h"
#include "util/error.h"

namespace attune::train {
namespace {

std::vector<std::pair<std::string, double>> numbers_of(const Config::Pairs& pairs, const char* key, bool whole) {
  std::vector<std::pair<std::string, double>> out;
  for (const auto& [name, value] : pairs) {
    double x = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
    const bool fits = error == std::errc() && end == value.data() + value.size() && x > 0 && x <= 1 << 20;
    if (!fits || (whole && x != static_cast<double>(static_cast<int64_t>(x))))
      refuse("{}: \"{}\" is {}; expected a {} above 0", key, name, value, whole ? "whole number" : "number");
    out.emplace_back(name, x);
  }
  return out;
}

}  // namespace

bool is_pattern(const std::string& target) { return target.find_first_of("^$*+?()[]{}|\\") != std::string::npos; }

void check_lora(const Config& c) {
  const bool lora = c.finetuning_type == "lora", eight = c.load_in_8bit || c.quantization_bit == 8, four = c.load_in_4bit || c.quantization_bit == 4;
  if (eight && four) refuse("quantization_bit, load_in_4bit and load_in_8bit: both 4 and 8 bits are asked for; choose one");
  if (!lora && c.quantization().on())
    refuse("quantization_bit: weights in {} bits cannot be trained, only adapters beside them: set finetuning_type: lora, or leave it out. Full tuning in little "
           "memory: `attune plan` shows what fits", c.quantization().four_bits() ? 4 : 8);
  if (!lora && !c.adapter_name_or_path.empty()) refuse("adapter_name_or_path: an adapter is trained with finetuning_type: lora; to tune a model in full with it, merge it first (attune merge)");
  if (!lora) return;
  if (c.pissa_init && c.init_lora_weights != "true") refuse("pissa_init and init_lora_weights: {} are two ways to begin; choose one", c.init_lora_weights);
  if (c.quantization().on() && (c.pissa_init || c.init_lora_weights != "true"))
    refuse("{}: takes a part out of the weights, which does not come out of quantised ones; the adapter would not fit the base any more. Leave out quantization_bit, "
           "or begin with init_lora_weights: true", c.pissa_init ? "pissa_init" : "init_lora_weights: olora");
  if (!c.pissa_convert)
    refuse("pissa_convert: false would leave an adapter that belongs to a base which was changed for it and is kept nowhere; it is always "
           "saved as plain LoRA for the base as it is. Leave pissa_convert out, or set it to true");
  if (c.use_tensor_train && (c.use_dora || c.pissa_init || c.init_lora_weights != "true"))
    refuse("use_tensor_train: {} beside it; the A and B of a tensor train follow from its cores and cannot begin or be changed otherwise. Leave one of the two out",
           c.use_dora ? "use_dora" : c.pissa_init ? "pissa_init" : "init_lora_weights: " + c.init_lora_weights);
  if (c.use_badam) refuse("use_badam: block coordinate descent goes with finetuning_type: full, not lora");
  if (c.create_new_adapter && c.adapter_name_or_path.empty())
    refuse("create_new_adapter: there is no adapter_name_or_path to go beside the new one; without it a new adapter is made anyway");
}

tuning::LoraOptions lora_options(const Config& c) {
  tuning::LoraOptions o;
  o.plus_ratio = c.loraplus_lr_ratio;
  if (c.learning_rate > 0) o.plus_embedding = c.loraplus_lr_embedding / c.learning_rate;
  o.start.seed = static_cast<uint64_t>(c.seed);
  o.merged = c.adapter_name_or_path;
  if (!o.merged.empty() && !c.create_new_adapter) {
    o.continued = o.merged.back();
    o.merged.pop_back();
    o.config = formats::read_lora_config(o.continued);
    o.config.base_model = c.model_name_or_path;
    o.tensor_train = tuning::read_tensor_train(o.continued);
    if (c.use_tensor_train && !o.tensor_train.on())
      refuse("use_tensor_train: {} has no {}: it is plain LoRA, which no cores follow from. Continue it without use_tensor_train, or set "
             "create_new_adapter: true to train a tensor train on top of it", o.continued, tuning::kCoresFile);
    return o;
  }
  o.start.how = c.pissa_init ? tuning::LoraStart::pissa : c.init_lora_weights == "olora" ? tuning::LoraStart::olora : tuning::LoraStart::zero;
  o.start.pissa_iterations = c.pissa_iter;
  formats::LoraConfig& f = o.config;
  f.base_model = c.model_name_or_path;
  f.r = c.lora_rank;
  f.alpha = c.lora_alpha.value_or(2 * static_cast<double>(c.lora_rank));
  f.dropout = c.lora_dropout;
  if (c.lora_target.size() == 1 && is_pattern(c.lora_target[0])) f.target_pattern = c.lora_target[0];
  else f.target_modules = c.lora_target;
  f.modules_to_save = c.additional_target;
  if (scores_sequences(c)) {  // the head is new: it is trained as a whole, or nothing would be learnt
    f.task_type = "SEQ_CLS";
    if (!f.saves("score")) f.modules_to_save.push_back("score");
  }
  // Tokens that are added are learnt in both tables.
  if (!c.add_tokens.empty() || !c.add_special_tokens.empty())
    for (const auto& [module, name] : {std::pair("model.embed_tokens", "embed_tokens"), {"lm_head", "lm_head"}})
      if (!f.saves(module) && !(scores_sequences(c) && std::string_view(name) == "lm_head")) f.modules_to_save.push_back(name);
  f.layers_to_transform = c.layers_to_transform;
  f.rank_pattern = numbers_of(c.rank_pattern, "rank_pattern", true);
  f.alpha_pattern = numbers_of(c.alpha_pattern, "alpha_pattern", false);
  f.bias = c.bias;
  f.use_rslora = c.use_rslora;
  f.use_dora = c.use_dora;
  if (c.use_tensor_train) o.tensor_train = {c.tt_bond, c.tt_weighted};
  return o;
}

}  // namespace attune::train
