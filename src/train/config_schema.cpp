#include "train/config_schema.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "optim/schedule.h"
#include "train/lora_options.h"
#include "util/error.h"
#include "util/json.h"

namespace attune::train {
namespace {

std::string text(double x) { return fmt::format("{}", x); }
std::string text(int64_t x) { return std::to_string(x); }
std::string text(bool x) { return x ? "true" : "false"; }
std::string text(const std::string& x) { return x; }
std::string text(const std::vector<std::string>& x) { return fmt::format("{}", fmt::join(x, ",")); }
std::string text(const Config::Pairs& x) {
  return pairs_text(x);
}
std::string text(const std::vector<double>& x) { return fmt::format("{}", fmt::join(x, ",")); }

// A decay of 1 and an epsilon of 0 divide by zero: by the bias correction, and where a gradient is zero (an embedding
// that no token uses). These are the last that fp32 tells apart from them.
constexpr double kMostDecay = 0.9999999, kLeastEpsilon = 1e-37;

class Schema {
 public:
  Schema() {
    section("Model");
    string("model_name_or_path", &Config::model_name_or_path, "Directory of the base model (Hugging Face layout). Required.");
    list("adapter_name_or_path", &Config::adapter_name_or_path, "`lora`: adapter directories as PEFT saves them. Training continues the last one, with its own rank, targets and so on; those before it become part of the base, in memory.");
    list("add_tokens", &Config::add_tokens, "New tokens for the tokenizer, which the result has too. They take rows that the model has beyond its tokenizer's; `resize_vocab` allows more. With `lora` embed_tokens and lm_head join `additional_target`.");
    list("add_special_tokens", &Config::add_special_tokens, "The same for special tokens, which text of users never becomes.");
    flag("resize_vocab", &Config::resize_vocab, "Whether embedding and head may get more rows where new tokens need them.");
    choices("init_special_tokens", &Config::init_special_tokens, {"mean", "subtokens", "noise_init"}, "How rows of new tokens (of both kinds) begin: `mean` of all rows, mean of the rows of the `subtokens` that the tokenizer makes of the token's text, or `noise_init`: mean and normal noise of 1/√hidden_size (LLaMA-Factory's default).");
    section("Method");
    add({"stage", "", "sft, pt, rm, dpo, kto, orpo, simpo, cpo", "`sft` supervised fine-tuning, `pt` continued pre-training, `rm` reward model, `dpo` preference pairs, `kto` judged answers. Each reads data of its own kind (data.md). `orpo`, `simpo` and `cpo` are `dpo` with that `pref_loss`.",
         [](Config& c, const Given& g) {
           const std::string name = choice(g, {"sft", "pt", "rm", "dpo", "kto", "orpo", "simpo", "cpo"});
           const bool loss = name == "orpo" || name == "simpo" || name == "cpo";
           c.stage = loss ? "dpo" : name;
           c.stage_loss = loss ? name : "";
         },
         [](const Config& c) { return c.stage; }, {}});
    choices("finetuning_type", &Config::finetuning_type, {"full", "freeze", "lora"}, "What is trained. `full`: every parameter (LLaMA-Factory's default is `lora`). `freeze`: some layers or modules; `lora`: low-rank adapters. What is not trained keeps the base's values and costs no gradient and no optimizer memory.");
    integer("freeze_trainable_layers", &Config::freeze_trainable_layers, -(1 << 20), 1 << 20, "`freeze`: train the last n layers (n > 0) or the first n (-n).");
    list("freeze_trainable_modules", &Config::freeze_trainable_modules, "`freeze`: modules trained in those layers, by name (`mlp`, `self_attn`, `q_proj` …); `all`: every one.");
    list("freeze_extra_modules", &Config::freeze_extra_modules, "`freeze`: modules outside of the layers that are trained too (`embed_tokens`, `norm`, `lm_head`).");
    list("unfrozen_parameters", &Config::unfrozen_parameters, "`freeze`: regular expressions over parameter names; where given, exactly what they find is trained and the three keys above do not count.");
    integer("lora_rank", &Config::lora_rank, 1, 1 << 16, "`lora`: rank of the adapters.");
    add({"lora_alpha", "", "number", "`lora`: the adapters' part is multiplied by lora_alpha / rank; default: twice `lora_rank`.",
         [](Config& c, const Given& g) { c.lora_alpha = number(g, 1e-6, 1e9); },
         [](const Config& c) { return c.lora_alpha ? text(*c.lora_alpha) : ""; }, {}});
    real("lora_dropout", &Config::lora_dropout, 0, 0.999, "`lora`: dropout of what the adapters read; modules that read the same (q, k and v; gate and up) share the mask.");
    add({"lora_target", "", "list or regular expression", "`lora`: the modules that get an adapter: `all` linear modules of the layers, names that their paths end with (`q_proj,v_proj`; also `embed_tokens` and `lm_head`, which `all` leaves out: `all,lm_head`), or one regular expression that whole paths match (`model\\.layers\\.[0-3]\\..*_proj`). Tensors that a family stores fused (phi3 qkv_proj, Baichuan W_pack) have one adapter over the whole.",
         [](Config& c, const Given& g) {
           const bool expression = !g.is_list && g.values.size() == 1 && is_pattern(g.values[0]);
           c.lora_target = expression ? g.values : names(g);
         },
         [](const Config& c) { return text(c.lora_target); }, {}});
    list("additional_target", &Config::additional_target, "`lora`: modules that are trained as a whole and saved with the adapter (`embed_tokens`, `lm_head`, `norm`), as PEFT's modules_to_save: a module belongs where its path ends with these letters. Of a tied embedding and head only the one that is named changes.", {"modules_to_save"});
    choices("bias", &Config::bias, {"none", "all", "lora_only"}, "`lora`: biases that are trained: none, all of the model, or those of modules with an adapter.");
    maps("rank_pattern", &Config::rank_pattern, "`lora`: other ranks for some modules: a map from an expression that paths end with to a rank, e.g. `{down_proj: 16}`; lora_alpha stays.");
    maps("alpha_pattern", &Config::alpha_pattern, "`lora`: the same for lora_alpha.");
    add({"layers_to_transform", "", "list of integers", "`lora`: only these layers get adapters; empty: all. Not with a regular expression in `lora_target`.",
         [](Config& c, const Given& g) {
           c.layers_to_transform.clear();
           for (const std::string& item : names(g)) c.layers_to_transform.push_back(whole({g.key, g.where, {item}, {}, false, false}, 0, 1 << 20));
         },
         [](const Config& c) { return fmt::format("{}", fmt::join(c.layers_to_transform, ",")); }, {}});
    flag("use_rslora", &Config::use_rslora, "`lora`: rsLoRA, lora_alpha / √rank instead of lora_alpha / rank.");
    flag("use_dora", &Config::use_dora, "`lora`: DoRA, each row of an adapted weight also has a length of its own that is trained. Each adapted module keeps one more output for the backward pass.");
    flag("pissa_init", &Config::pissa_init, "`lora`: PiSSA, A and B begin as the largest singular vectors of each weight, and the weight without that part is the frozen base. Learns faster at first; takes a decomposition of each weight at the start.");
    integer("pissa_iter", &Config::pissa_iter, -1, 1000, "`pissa_init`: iterations by which the singular vectors are found; -1: exactly, which takes long for large models.");
    flag("pissa_convert", &Config::pissa_convert, "`pissa_init`: must stay true (LLaMA-Factory has false). The result and checkpoints are plain LoRA of twice the rank, for the base as it is.");
    choices("init_lora_weights", &Config::init_lora_weights, {"true", "olora"}, "`lora`: how A and B begin. `true`: A random, B zero; `olora`: the first columns of Q and rows of R of each weight, saved like PiSSA as plain LoRA of twice the rank.");
    flag("use_tensor_train", &Config::use_tensor_train, "`lora`: A and B of each module come out of tensor trains (matrix product operators of two cores each), and those alone are trained: a fraction of the parameters. Saved as plain LoRA, and the cores beside it.");
    integer("tt_bond", &Config::tt_bond, 1, 1 << 16, "`use_tensor_train`: the size of the bond between two cores; the trained parameters grow with it.");
    flag("tt_weighted", &Config::tt_weighted, "`use_tensor_train`: the columns of B are weighted by the probabilities of a small simulated quantum circuit whose angles are trained.");
    real("loraplus_lr_ratio", &Config::loraplus_lr_ratio, 0, 1e6, "`lora`: LoRA+, B (and what is a vector) learns at this multiple of the rate (16 is usual); 0: off.");
    real("loraplus_lr_embedding", &Config::loraplus_lr_embedding, 0, 1, "`lora` with LoRA+: the rate of `lora_embedding_B`, where `lora_target` names embed_tokens; not a multiple but a rate (PEFT gives it to `lora_embedding_A` too).");
    add({"quantization_bit", "", "4 or 8", "`lora`: hold the weights of the layers in 4 bits (QLoRA) or 8 while they are frozen below the adapter; they are turned back piece by piece where they are used. Embedding, head and norms stay as `bf16` and so on say. Memory: [planning.md](planning.md), merging: [training.md](training.md).",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           const bool off = v.empty() || v == "0" || v == "none" || v == "None" || v == "false" || v == "False";
           c.quantization_bit = off ? 0 : whole(g, 1, 64);
           if (!off && c.quantization_bit != 4 && c.quantization_bit != 8) refuse("{}: {} is {}; expected 4 or 8", g.where, g.key, v);
         },
         [](const Config& c) { return c.quantization_bit ? text(c.quantization_bit) : ""; }, {}});
    choices("quantization_type", &Config::quantization_type, {"nf4", "fp4"}, "The 4 bits: `nf4`, whose 16 numbers follow a normal distribution, or `fp4`; blocks of 64 share a scale.", {"bnb_4bit_quant_type"});
    flag("double_quantization", &Config::double_quantization, "4 bits: hold the scales in 8 bits too, 0.37 bits a weight less.", {"bnb_4bit_use_double_quant"});
    add({"quantization_method", "", "bnb", "Only `bnb` (`bitsandbytes`): the base is quantised while it is loaded, as bitsandbytes does. Models that were quantised before by other methods cannot be read.",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           if (v != "bnb" && v != "bitsandbytes") refuse("{}: {}: {} is not available; bnb quantises any base while it is loaded", g.where, g.key, v);
           c.quantization_method = "bnb";
         },
         [](const Config& c) { return c.quantization_method; }, {}});
    flag("load_in_4bit", &Config::load_in_4bit, "The same as `quantization_bit: 4`.");
    flag("load_in_8bit", &Config::load_in_8bit, "The same as `quantization_bit: 8`.");
    flag("qlora", &Config::qlora, "MedicalGPT's key: `quantization_bit: 4` where nothing else is said.");
    flag("create_new_adapter", &Config::create_new_adapter, "`lora`: all of `adapter_name_or_path` become part of the base, in memory, and a new adapter is trained beside them.");
    flag("do_train", &Config::do_train, "Must stay true: `attune train` trains.");
    section("Preferences and rewards");
    list("pref_loss", &Config::pref_loss, "`dpo`: the loss over pairs ([preferences.md](preferences.md) has the formulae): `sigmoid` (DPO), `hinge`, `ipo`, `robust`, `exo_pair`, `nca_pair`, `bco_pair`, `sppo_hard`, `aot`, `apo_zero`, `apo_down`, `discopop`, `sigmoid_norm`, and without a reference `orpo`, `simpo`, `cpo`. Several form a mixture, in which `sft` may stand too.", {"loss_type"});
    numbers("pref_loss_weights", &Config::pref_loss_weights, "Weights of a mixture, one for each loss; empty: 1 each.", {"loss_weights"});
    real("pref_beta", &Config::pref_beta, 1e-6, 1e6, "How strongly answers are held to the reference (`dpo`, `kto`); the weight of the odds ratio (`orpo`); the scale of the margin (`simpo`, 2 is usual there).", {"beta"});
    real("pref_ftx", &Config::pref_ftx, 0, 1e6, "`dpo`: weight of an SFT term on the chosen answer, its mean loss over tokens.", {"rpo_alpha"});
    real("dpo_label_smoothing", &Config::dpo_label_smoothing, 0, 0.999, "The share of pairs that may be labelled the wrong way round: `sigmoid` (cDPO), `robust`, `exo_pair`, `aot`, `simpo`, `cpo`.", {"label_smoothing"});
    real("simpo_gamma", &Config::simpo_gamma, 0, 1e6, "`simpo`: by how much the chosen answer should win.");
    real("ld_alpha", &Config::ld_alpha, 0, 1, "LD-DPO: how much tokens count by which an answer of a pair is longer than the other; 1: as all others.");
    real("discopop_tau", &Config::discopop_tau, 1e-6, 1e6, "`discopop`: temperature of its blend.");
    real("cpo_alpha", &Config::cpo_alpha, 0, 1e6, "`cpo`: weight of its SFT term.");
    string("ref_model", &Config::ref_model, "`dpo`, `kto`: directory of the reference model; empty: the model as training begins. Either way its log-probabilities are computed once, before the first update, and kept in output_dir; it takes no memory while the model trains.");
    choices("kto_loss", &Config::kto_loss, {"kto", "bco", "apo_zero"}, "`kto`: the loss over judged answers ([preferences.md](preferences.md)).", {}, {{"apo_zero_unpaired", "apo_zero"}});
    real("kto_chosen_weight", &Config::kto_chosen_weight, 0, 1e6, "`kto`: weight of good answers.", {"desirable_weight"});
    real("kto_rejected_weight", &Config::kto_rejected_weight, 0, 1e6, "`kto`: weight of bad answers.", {"undesirable_weight"});
    real("center_rewards_coefficient", &Config::center_rewards_coefficient, 0, 1e6, "`rm`: pulls the sum of a pair's rewards to 0; 0.01 is usual.");
    section("Data");
    list("dataset", &Config::dataset, "Data sets: names in `dataset_info.json`, paths of files or directories, or names below `dataset_dir`; `name#500` takes 500 rows, chosen by `seed`. Several with commas or as a list. Required.");
    list("eval_dataset", &Config::eval_dataset, "Validation data sets, instead of `val_size`.");
    string("dataset_dir", &Config::dataset_dir, "Where names in `dataset` are looked up, and where `dataset_info.json` is.");
    choices("mix_strategy", &Config::mix_strategy, {"concat", "interleave_under", "interleave_over", "interleave_once"}, "How several data sets form an epoch. `concat`: all samples; `interleave_…`: in turns until the first is at its end (`under`), until all have been (`over`, repeating), or each sample once (`once`).");
    numbers("interleave_probs", &Config::interleave_probs, "With `interleave_…`: how likely each data set's turn is; empty: strictly in turns.");
    numbers("dataset_weights", &Config::dataset_weights, "With `concat`: how many times an epoch goes through each data set, e.g. `2,0.5`; empty: once each.");
    string("template", &Config::chat_template, "Chat template: a name of [templates.md](templates.md) (`alpaca`, `qwen`, `llama3`, `baichuan2`, `mistral` …); empty: the model's own.");
    string("tool_format", &Config::tool_format, "How a named template writes tools and tool calls: `default`, `qwen`, `glm4`, `llama3`, `mistral`; empty: the template's own way.");
    integer("cutoff_len", &Config::cutoff_len, 2, 1 << 24, "Longest sequence in tokens. What is cut is reported with file and line; the token that closes a kept answer is never cut.");
    flag("packing", &Config::packing, "Put several samples into one sequence of `cutoff_len` tokens. Attention and positions keep them apart.");
    add({"neat_packing", "", "true or false", "The same as `packing`, under LLaMA-Factory's name for packing that keeps samples apart.",
         [](Config& c, const Given& g) { c.packing = boolean(g) || c.packing; },
         [](const Config& c) { return text(c.packing); }, {}});
    flag("train_on_prompt", &Config::train_on_prompt, "Learn the questions too, not only the answers.");
    flag("mask_history", &Config::mask_history, "Learn only the last answer of a conversation. One that is too long loses its first turns, not its last.");
    integer("max_samples", &Config::max_samples, 0, int64_t{1} << 40, "Read at most this many rows of each data set; 0: all.");
    flag("token_cache", &Config::token_cache, "Keep tokenised data on disk and take it from there when nothing that decides it has changed ([data.md](data.md)).");
    string("tokenized_path", &Config::tokenized_path, "Directory to keep tokenised data in, however small and for as long as you like; empty: the user's cache directory, where only what takes long is kept.");
    flag("overwrite_cache", &Config::overwrite_cache, "Tokenise anew and replace what is kept. Leave it out to make use of it: a change of data or settings is seen without.");
    real("val_size", &Config::val_size, 0, 1e12, "Validation share (below 1) or number of samples held out of `dataset`; of a stream the number of its first rows.");
    flag("streaming", &Config::streaming, "`pt`, `sft`: read and tokenise `dataset` while it trains, for corpora that memory does not hold. Needs `max_steps` ([data.md](data.md#streaming)).");
    integer("buffer_size", &Config::buffer_size, 1, 1 << 24, "`streaming`: rows that are in memory at a time, and shuffled and packed among each other.");
    section("Prediction");
    flag("predict_with_generate", &Config::predict_with_generate, "`attune eval` generates answers to the held-out questions and scores them (TrainingArguments has false). Training itself does not.");
    integer("max_new_tokens", &Config::max_new_tokens, 1, 1 << 24, "Longest answer that `attune eval` generates.");
    section("Training");
    string("output_dir", &Config::output_dir, "Where the result goes.");
    flag("overwrite_output_dir", &Config::overwrite_output_dir, "Start afresh in an `output_dir` that already holds a result.");
    add({"per_device_train_batch_size", "", "integer or auto", "Samples (packs with `packing`) in a micro-batch. `auto`: the largest power of two that fits into memory; where `gradient_accumulation_steps` is set, that is then the size of an update in samples, and `auto` only decides how it is split.",
         [](Config& c, const Given& g) {
           c.auto_batch = g.scalar() == "auto";
           c.per_device_train_batch_size = c.auto_batch ? 1 : whole(g, 1, 1 << 20);
         },
         [](const Config& c) { return c.auto_batch ? "auto" : text(c.per_device_train_batch_size); }, {}});
    flag("auto_fit", &Config::auto_fit, "Where the plan does not fit into memory, take the cheapest settings that do ([planning.md](planning.md)), say so, and record them. A resumed run keeps them.");
    integer("per_device_eval_batch_size", &Config::per_device_eval_batch_size, 1, 1 << 20, "The same for evaluation.");
    integer("gradient_accumulation_steps", &Config::gradient_accumulation_steps, 1, 1 << 20, "Micro-batches in an update. The loss is normalised over all of them together.");
    real("learning_rate", &Config::learning_rate, 0, 1e3, "Peak learning rate.");
    maps("learning_rate_groups", &Config::learning_rate_groups, "Other rates for some parameters: a map from regular expression over names to a rate (`1.0e-6`) or a multiple (`0.1x`); the first that is found in a name decides.");
    choices("lr_scheduler_type", &Config::lr_scheduler_type, optim::Schedule::names(), "Course of the learning rate after warm-up. `step` is StepLR.", {}, {{"cosine_with_min_lr_schedule_with_warmup", "cosine_with_min_lr"}, {"wsd", "warmup_stable_decay"}, {"steplr", "step"}, {"StepLR", "step"}});
    maps("lr_scheduler_kwargs", &Config::lr_scheduler_kwargs, "Arguments of the schedule. `cosine`: num_cycles; `cosine_with_restarts`: num_cycles; `cosine_with_min_lr`: min_lr or min_lr_rate; `polynomial`: lr_end, power; `inverse_sqrt`: timescale; `warmup_stable_decay`: num_decay_steps, num_stable_steps, min_lr_ratio, warmup_type, decay_type; `step`: step_size, gamma, per (`epoch` or `step`).");
    real("warmup_ratio", &Config::warmup_ratio, 0, 1, "Warm-up as a share of all updates.");
    real("warmup_steps", &Config::warmup_steps, 0, 1e12, "Warm-up in updates (wins over `warmup_ratio`); below 1: a share.");
    real("num_train_epochs", &Config::num_train_epochs, 0, 1e9, "Passes over the data.");
    integer("max_steps", &Config::max_steps, -1, int64_t{1} << 40, "Updates; wins over `num_train_epochs` when positive.");
    flag("bf16", &Config::bf16, "bf16 weights and matrix work with fp32 masters, moments and sums (16 bytes a parameter, 18 when accumulating). Without: fp32 throughout.");
    flag("pure_bf16", &Config::pure_bf16, "bf16 weights, gradients and moments without masters (8 bytes a parameter); weights and moments are rounded stochastically, so that small updates are not lost.");
    flag("fp16", &Config::fp16, "fp16 weights and matrix work with fp32 masters and moments and a dynamic loss scale. An update whose gradients overflow is skipped and counted. bf16 needs none of that.");
    choices("save_dtype", &Config::save_dtype, {"auto", "float32", "bfloat16", "float16"}, "Numbers in the saved model. `auto`: as the base has them (bfloat16 with `pure_bf16`).", {}, {{"fp32", "float32"}, {"bf16", "bfloat16"}, {"fp16", "float16"}});
    checkpointing();
    choices("optim", &Config::optim, {"adamw_torch", "adamw", "adamw_torch_fused", "adamw_hf", "adam", "sgd", "lion", "lion_32bit", "adafactor", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "lion_8bit", "paged_lion_8bit", "lomo", "adalomo", "galore_adamw", "galore_adamw_8bit", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "apollo_adamw", "apollo_adamw_layerwise", "muon"}, "AdamW (its first four names mean the same here), Adam (weight decay goes into the gradient), SGD, Lion, Adafactor (as transformers': no momentum, a given rate). With 8-bit states (2 bytes a parameter instead of 8): AdamW under three names, Lion under two. `lomo`: SGD without momentum, `adalomo`: Adafactor with `scale_parameter`. GaLore, APOLLO and Muon treat the matrices of the layers, embeddings and the rest are AdamW's. `lomo`, `adalomo` and `…_layerwise` set `optimizer_in_backward`.");
    maps("optim_args", &Config::optim_args, "More of the optimizer: `amsgrad=true` (adam, adamw), `momentum=0.9`, `nesterov=true` (sgd), `scale_parameter=true`, `clip_threshold`, `decay_rate` (adafactor), `rank` (128), `update_proj_gap` (200), `scale` (galore 0.25, apollo 1), `proj_type` (`std`, `reverse_std`, `right`, `left`) (galore, apollo), `proj` (`random`, `svd`), `scale_type` (`channel`, `tensor`), `scale_front` (apollo), `momentum` (0.95), `nesterov`, `ns_steps` (5), `eps`, `adjust_lr_fn` (`original`, `match_rms_adamw`, `spectral_unclamped`) (muon). APOLLO-Mini is `rank=1,scale_type=tensor,scale=128`.");
    list("optim_target_modules", &Config::optim_target_modules, "`galore_…`, `apollo_…`, `muon`: which matrices they treat, by names or regular expressions that are found in a parameter's name; empty or `all-linear`: every matrix of the layers.");
    flag("use_galore", &Config::use_galore, "GaLore under LLaMA-Factory's keys, on `optim: adamw_torch` or `adamw_8bit`: AdamW in a space of `galore_rank` dimensions, found by singular vectors of the gradient.");
    list("galore_target", &Config::galore_target, "Which matrices; `all`: every matrix of the layers.");
    integer("galore_rank", &Config::galore_rank, 1, 1 << 20, "Dimensions.");
    integer("galore_update_interval", &Config::galore_update_interval, 1, 1 << 24, "Updates between new projections.");
    real("galore_scale", &Config::galore_scale, 1e-6, 1e6, "Factor of the update.");
    choices("galore_proj_type", &Config::galore_proj_type, {"std", "reverse_std", "right", "left"}, "Which side is projected; `std`: the longer one's vectors.");
    flag("galore_layerwise", &Config::galore_layerwise, "The same as `optimizer_in_backward`.");
    flag("use_apollo", &Config::use_apollo, "APOLLO under LLaMA-Factory's keys: gradients scaled by what AdamW does in a random space of `apollo_rank` dimensions.");
    list("apollo_target", &Config::apollo_target, "Which matrices; `all`: every matrix of the layers.");
    integer("apollo_rank", &Config::apollo_rank, 1, 1 << 20, "Dimensions.");
    integer("apollo_update_interval", &Config::apollo_update_interval, 1, 1 << 24, "Updates between new projections.");
    real("apollo_scale", &Config::apollo_scale, 1e-6, 1e6, "The update is multiplied by its root.");
    choices("apollo_proj", &Config::apollo_proj, {"random", "svd"}, "Random projections, or singular vectors.");
    choices("apollo_proj_type", &Config::apollo_proj_type, {"std", "reverse_std", "right", "left"}, "Which side is projected; `std`: the longer one's vectors.");
    choices("apollo_scale_type", &Config::apollo_scale_type, {"channel", "tensor"}, "One factor for each channel or for the tensor.");
    flag("apollo_layerwise", &Config::apollo_layerwise, "The same as `optimizer_in_backward`.");
    flag("apollo_scale_front", &Config::apollo_scale_front, "Scale before the norm-growth limiter, not behind it.");
    flag("use_muon", &Config::use_muon, "Muon under LLaMA-Factory's key: `optim: muon` with `adjust_lr_fn=match_rms_adamw`.");
    flag("use_badam", &Config::use_badam, "BAdam, block coordinate descent: one layer learns at a time, so masters, gradients and optimizer states are those of one layer. Embedding, head and final norm keep the base's values.");
    choices("badam_mode", &Config::badam_mode, {"layer"}, "The unit that takes turns. (`ratio` of LLaMA-Factory is not there.)");
    choices("badam_switch_mode", &Config::badam_switch_mode, {"ascending", "descending", "random", "fixed"}, "The order in which layers take turns; `fixed`: only `badam_start_block` learns.");
    add({"badam_start_block", "", "integer", "The layer that begins; default: the first, or with `descending` the last.",
         [](Config& c, const Given& g) { c.badam_start_block = whole(g, 0, 1 << 20); },
         [](const Config& c) { return c.badam_start_block ? text(*c.badam_start_block) : ""; }, {}});
    integer("badam_switch_interval", &Config::badam_switch_interval, 1, int64_t{1} << 40, "Updates until the next layer's turn; it begins with fresh optimizer states.");
    flag("optimizer_in_backward", &Config::optimizer_in_backward, "Update each parameter as soon as its gradient is complete and free the gradient: no memory for gradients, 2 bytes a parameter less in bf16. Needs `gradient_accumulation_steps: 1` and no fp16; for larger batches raise `per_device_train_batch_size` with `gradient_checkpointing: block`.");
    choices("clipping", &Config::clipping, {"auto", "global", "previous_step", "per_tensor", "off"}, "How `max_grad_norm` is applied. `global`: to the norm over all gradients of this update. With `optimizer_in_backward` that norm is not known in time: `previous_step` tells it from the norm of the update before and from how long this update's gradients are so far (backward goes through the first update twice, to measure), `per_tensor` clips each parameter's own norm. `auto`: `global`, or `previous_step` with `optimizer_in_backward`.");
    real("weight_decay", &Config::weight_decay, 0, 1e3, "Weight decay; norms and biases are left out. Decoupled, but for adam and sgd, as in PyTorch.");
    real("l2_to_base", &Config::l2_to_base, 0, 1e3, "Like weight_decay, but towards the base model's weights instead of zero (L2-SP), for every trained parameter: a guard against forgetting. Costs a copy of the base in memory.");
    real("label_smoothing_factor", &Config::label_smoothing_factor, 0, 0.999, "Spread this share of the target over all words. The training loss is the smoothed one; evaluation stays plain.");
    flag("use_dft_loss", &Config::use_dft_loss, "DFT: in training the loss of a token counts times the probability that the model gives it, so that what it finds unlikely is not forced. `pt` and `sft`.");
    real("neftune_noise_alpha", &Config::neftune_noise_alpha, 0, 1e3, "NEFTune: noise of alpha/√(length·hidden_size) on the embeddings, in training only (5 is usual).", {"neft_alpha"});
    add({"attention_dropout", "", "number", "Dropout of attention weights; default: the model's config.json.",
         [](Config& c, const Given& g) { c.attention_dropout = number(g, 0, 0.999); },
         [](const Config& c) { return c.attention_dropout ? text(*c.attention_dropout) : ""; }, {}});
    real("hidden_dropout", &Config::hidden_dropout, 0, 0.999, "Dropout of what attention and MLP add to the residual stream.");
    real("embedding_dropout", &Config::embedding_dropout, 0, 0.999, "Dropout of the embeddings.");
    real("adam_beta1", &Config::adam_beta1, 0, kMostDecay, "Decay of the first moment.");
    real("adam_beta2", &Config::adam_beta2, 0, kMostDecay, "Decay of the second moment.");
    real("adam_epsilon", &Config::adam_epsilon, kLeastEpsilon, 1, "Added to the denominator.");
    real("max_grad_norm", &Config::max_grad_norm, 0, 1e12, "Clip gradients to this global norm; 0: off.");
    flag("group_by_length", &Config::group_by_length, "Samples of similar length share a micro-batch (no use with `packing`).");
    flag("disable_shuffling", &Config::disable_shuffling, "Rows come in the order of the files in every epoch (a curriculum); packs in the order of their first rows.");
    flag("dataloader_drop_last", &Config::dataloader_drop_last, "Leave out an epoch's last micro-batch when it is not full.");
    choices("device", &Config::device, {"auto", "cpu", "cuda"}, "Where it computes; `auto` takes a GPU where there is one.");
    add({"use_cpu", "", "boolean", "`true` is `device: cpu`; beside `device: cuda` it is refused.",
         [](Config& c, const Given& g) { if (boolean(g)) c.device = "cpu"; },
         [](const Config& c) { return text(c.device == "cpu"); }, {}});
    integer("seed", &Config::seed, 0, int64_t{1} << 53, "Everything random is a function of it.");
    add({"data_seed", "", "integer", "Seed of the data order alone; default: `seed`.",
         [](Config& c, const Given& g) { c.data_seed = whole(g, 0, int64_t{1} << 53); },
         [](const Config& c) { return text(c.data_seed.value_or(c.seed)); }, {}});
    section("Logs, evaluation, checkpoints");
    integer("logging_steps", &Config::logging_steps, 1, int64_t{1} << 40, "Updates between log lines (TrainingArguments has 500).");
    flag("logging_first_step", &Config::logging_first_step, "Also log the first update.");
    choices("eval_strategy", &Config::eval_strategy, {"auto", "no", "steps", "epoch"}, "When to evaluate. `auto`: at the end of each epoch when there is validation data, or every `eval_steps`.", {"evaluation_strategy"});
    integer("eval_steps", &Config::eval_steps, 0, int64_t{1} << 40, "Updates between evaluations; 0: `logging_steps` with `eval_strategy: steps`.");
    flag("eval_on_start", &Config::eval_on_start, "Evaluate the base model before the first update.");
    integer("early_stopping_patience", &Config::early_stopping_patience, 0, 1 << 20, "Stop after so many evaluations without a better `metric_for_best_model`; 0: never.", {"early_stopping_steps"});
    real("early_stopping_threshold", &Config::early_stopping_threshold, 0, 1e12, "By how much a metric must be better to count.");
    flag("load_best_model_at_end", &Config::load_best_model_at_end, "The result is the best checkpoint, not the last. A checkpoint is written at every evaluation that is the best so far, whatever `save_strategy` says.");
    string("metric_for_best_model", &Config::metric_for_best_model, "What decides: `loss`, `accuracy` (of tokens), `perplexity`, or `<data set>_loss` with several data sets; `eval_` before it may stand or not.");
    add({"greater_is_better", "", "true or false", "Direction of `metric_for_best_model`; default: larger for accuracy, smaller for the others.",
         [](Config& c, const Given& g) { c.greater_is_better = boolean(g); },
         [](const Config& c) { return c.greater_is_better ? text(*c.greater_is_better) : ""; }, {}});
    integer("num_generation_samples", &Config::num_generation_samples, 0, 1000, "At each evaluation, answer the first so many validation prompts and write prompt, answer and expected answer to `generated_samples.jsonl`.");
    integer("generation_max_new_tokens", &Config::generation_max_new_tokens, 1, 1 << 20, "Longest of these answers, in tokens.");
    integer("cross_validation", &Config::cross_validation, 0, 1000, "k: train k times, each time validating on another k-th of the data; `cross_validation.json` has mean and spread. 0: off.");
    choices("cross_validation_model", &Config::cross_validation_model, {"final", "folds", "none"}, "What stays: `final` one model trained on all data after the folds, `folds` the k models in fold-1 …, `none` the figures alone.");
    choices("save_strategy", &Config::save_strategy, {"steps", "epoch", "no", "best"}, "When to write checkpoints; `best`: at evaluations that are the best so far.");
    integer("save_steps", &Config::save_steps, 1, int64_t{1} << 40, "Updates between checkpoints.");
    integer("save_total_limit", &Config::save_total_limit, 0, 1 << 20, "Keep only so many checkpoints, the newest; 0: all. The best one is kept beside them.");
    flag("save_only_model", &Config::save_only_model, "Checkpoints without optimizer state: small, but they do not resume.");
    add({"resume_from_checkpoint", "", "true, false or a directory", "Continue, bit for bit, from the newest intact checkpoint in `output_dir` (true) or from a given one. With true and no checkpoint yet, the run starts from the beginning.",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           c.resume_from_checkpoint = v == "false" || v == "False" || v == "null" || v == "~" ? "" : v;
         },
         [](const Config& c) { return c.resume_from_checkpoint.empty() ? "false" : c.resume_from_checkpoint; }, {}});
  }

  const std::vector<Key>& keys() const { return keys_; }
  const Key* find(const std::string& name) const {
    for (const Key& k : keys_)
      if (k.name == name || std::find(k.aliases.begin(), k.aliases.end(), name) != k.aliases.end()) return &k;
    return nullptr;
  }

 private:
  void section(const std::string& name) { section_ = name; }
  void add(Key key) {
    key.section = section_;
    keys_.push_back(std::move(key));
  }
  template <class T, class F>
  void member(const std::string& name, T Config::*m, const std::string& type, const std::string& doc, F parse,
              std::vector<std::string> aliases = {}) {
    add({name, "", type, doc, [m, parse](Config& c, const Given& g) { c.*m = parse(g); },
         [m](const Config& c) { return text(c.*m); }, std::move(aliases)});
  }
  void string(const std::string& name, std::string Config::*m, const std::string& doc) {
    member(name, m, "text", doc, [](const Given& g) { return g.scalar(); });
  }
  void list(const std::string& name, std::vector<std::string> Config::*m, const std::string& doc, std::vector<std::string> aliases = {}) {
    member(name, m, "list", doc, [](const Given& g) { return names(g); }, std::move(aliases));
  }
  void numbers(const std::string& name, std::vector<double> Config::*m, const std::string& doc, std::vector<std::string> aliases = {}) {
    member(name, m, "list of numbers", doc, [](const Given& g) {
      std::vector<double> out;
      for (const std::string& item : names(g)) out.push_back(number({g.key, g.where, {item}, {}, false, false}, 0, 1e6));
      return out;
    }, std::move(aliases));
  }
  void flag(const std::string& name, bool Config::*m, const std::string& doc, std::vector<std::string> aliases = {}) {
    member(name, m, "true or false", doc, [](const Given& g) { return boolean(g); }, std::move(aliases));
  }
  void integer(const std::string& name, int64_t Config::*m, int64_t low, int64_t high, const std::string& doc,
               std::vector<std::string> aliases = {}) {
    member(name, m, "integer", doc, [low, high](const Given& g) { return whole(g, low, high); }, std::move(aliases));
  }
  void real(const std::string& name, double Config::*m, double low, double high, const std::string& doc,
            std::vector<std::string> aliases = {}) {
    member(name, m, "number", doc, [low, high](const Given& g) { return number(g, low, high); }, std::move(aliases));
  }
  void maps(const std::string& name, Config::Pairs Config::*m, const std::string& doc) {
    member(name, m, "map", doc, [](const Given& g) { return pairs(g); });
  }
  // `other_names`: what a value is called elsewhere → what it is called here.
  void choices(const std::string& name, std::string Config::*m, const std::vector<std::string>& known, const std::string& doc,
               std::vector<std::string> aliases = {}, const std::map<std::string, std::string>& other_names = {}) {
    member(name, m, fmt::format("{}", fmt::join(known, ", ")), doc, [known, other_names](Given g) {
      if (g.values.size() == 1 && other_names.count(g.values[0])) g.values[0] = other_names.at(g.values[0]);
      return choice(g, known);
    }, std::move(aliases));
  }
  void checkpointing() {
    add({"gradient_checkpointing", "", "none, light, block, true, false",
         "Recompute activations in the backward pass, to the same bits: `light` (false) norms and gated activations, which cost next to nothing; `block` (true) keeps one vector a token and block; `none` keeps all.",
         [](Config& c, const Given& g) {
           const std::string& v = g.scalar();
           c.gradient_checkpointing = v == "none" || v == "light" || v == "block" ? v : boolean(g) ? "block" : "light";
         },
         [](const Config& c) { return c.gradient_checkpointing; }, {}});
  }

  std::string section_;
  std::vector<Key> keys_;
};

const Schema& schema() {
  static const Schema s;
  return s;
}

}  // namespace

std::string pairs_text(const Config::Pairs& pairs) {
  Json object = Json::object();
  for (const auto& [key, value] : pairs) object[key] = value;
  return pairs.empty() ? "" : object.dump();
}

const std::vector<Key>& schema_keys() { return schema().keys(); }

const Key* find_key(const std::string& name) { return schema().find(name); }

const std::set<std::string>& ignored_keys() {
  static const std::set<std::string> keys{
      "do_eval", "do_predict", "preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout",
      "plot_loss", "report_to", "trust_remote_code", "flash_attn", "use_fast_tokenizer", "cache_dir", "hf_hub_token",
      "run_name", "push_to_hub", "hub_model_id", "logging_dir", "disable_tqdm", "tf32", "torch_compile", "use_cache",
      "include_num_input_tokens_seen", "enable_liger_kernel", "dataloader_pin_memory", "ddp_find_unused_parameters",
      "remove_unused_columns", "print_param_status", "low_cpu_mem_usage", "preprocessing_batch_size", "deepspeed", "fsdp",
      "fsdp_config", "ddp_backend", "dataloader_persistent_workers", "dataloader_prefetch_factor", "hub_token", "hub_strategy",
      "hub_private_repo", "ms_hub_token", "om_hub_token", "log_on_each_node", "skip_memory_metrics",
      "logging_strategy", "compute_accuracy", "use_unsloth", "model_revision", "log_level", "precompute_ref_log_probs", "badam_verbose", "badam_update_ratio", "badam_mask_mode", "save_safetensors", "full_determinism"};
  return keys;
}

const std::set<std::string>& off_keys() {
  static const std::set<std::string> keys{
      "auto_find_batch_size", "ref_model_quantization_bit"};
  return keys;
}

}  // namespace attune::train
