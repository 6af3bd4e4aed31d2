#include "cli/sampling.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/files.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::cli {
namespace {

double number(const Json& json, const char* key, double from, double to, const std::string& file) {
  const Json& value = json[key];
  if (!value.is_number() || !(value.get<double>() >= from && value.get<double>() <= to))
    refuse("{}: \"{}\" is {}; expected a number from {} to {}", file, key, value.dump().substr(0, 40), from, to);
  return value.get<double>();
}

// Other ways to choose a token. A value that does nothing is listed beside each.
void warn_unsupported(const Json& json, const std::string& file) {
  const Json neutral = {{"num_beams", 1}, {"num_beam_groups", 1}, {"penalty_alpha", 0}, {"typical_p", 1}, {"epsilon_cutoff", 0}, {"eta_cutoff", 0},
                        {"no_repeat_ngram_size", 0}, {"encoder_repetition_penalty", 1}, {"min_length", 0}, {"min_new_tokens", 0}};
  for (const char* key : {"num_beams", "num_beam_groups", "penalty_alpha", "typical_p", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size",
                          "encoder_repetition_penalty", "min_length", "min_new_tokens", "bad_words_ids", "force_words_ids", "suppress_tokens",
                          "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "sequence_bias", "guidance_scale"})
    if (json.contains(key) && !json[key].is_null() && !(neutral.contains(key) && json[key] == neutral[key]))
      warn("{}: \"{}\" is not supported and does nothing here", file, key);
}

void read_generation_config(const SamplingArgs& args, const std::string& model, infer::GenerateOptions& o) {
  const fs::path path = fs::path(model) / "generation_config.json";
  const std::string file = path.string();
  if (!fs::exists(path)) refuse("--generation-config: {} does not exist", file);
  const Json json = read_json(path);
  if (!json.is_object()) refuse("{}: expected a JSON object", file);
  const auto has = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
  if (has("do_sample") && !json["do_sample"].is_boolean()) refuse("{}: \"do_sample\" must be true or false", file);
  const bool samples = has("do_sample") && json["do_sample"].get<bool>();
  // transformers reads the temperature only where it samples; 1 is its own default.
  if (!args.temperature && samples) o.temperature = has("temperature") ? number(json, "temperature", 0, 100, file) : 1;
  if (!args.top_k && has("top_k")) o.top_k = static_cast<int64_t>(number(json, "top_k", 0, 1e9, file));
  if (!args.top_p && has("top_p")) o.top_p = number(json, "top_p", 0, 1, file);
  if (!args.min_p && has("min_p")) o.min_p = number(json, "min_p", 0, 1, file);
  if (!args.repetition_penalty && has("repetition_penalty")) o.repetition_penalty = number(json, "repetition_penalty", 0.01, 100, file);
  if (!args.max_new_tokens && has("max_new_tokens")) o.max_new_tokens = static_cast<int64_t>(number(json, "max_new_tokens", 1, 1 << 24, file));
  warn_unsupported(json, file);
}

}  // namespace

infer::GenerateOptions sampling_options(const SamplingArgs& args, const std::string& model, int64_t max_new_tokens) {
  if (args.num_beams != 1)
    refuse("--num-beams: there is no beam search. --temperature 0 takes the likeliest token each time; --samples answers several times");
  const auto check = [](const std::optional<double>& value, const char* name) {
    if (value && !std::isfinite(*value)) refuse("{} must be a number", name);
  };
  check(args.temperature, "--temperature"), check(args.top_p, "--top-p"), check(args.min_p, "--min-p"), check(args.repetition_penalty, "--repetition-penalty");
  for (const std::string& stop : args.stop)
    if (stop.empty()) refuse("--stop: an empty text would end every answer at once");
  infer::GenerateOptions o;
  o.max_new_tokens = args.max_new_tokens.value_or(max_new_tokens);
  o.temperature = args.temperature.value_or(0);
  o.top_k = args.top_k.value_or(0);
  o.top_p = args.top_p.value_or(1);
  o.min_p = args.min_p.value_or(0);
  o.repetition_penalty = args.repetition_penalty.value_or(1);
  o.seed = static_cast<uint64_t>(args.seed);
  if (args.generation_config) read_generation_config(args, model, o);
  return o;
}

std::vector<int32_t> raw_prompt(const std::string& text, const text::Tokenizer& tokenizer) {
  text::EncodeOptions encode;
  encode.add_special_tokens = true;
  std::vector<int32_t> prompt = tokenizer.encode(text, encode).ids;
  // A tokenizer that adds EOS would end the text before it is continued.
  if (prompt.size() > 1 && tokenizer.eos_id() && prompt.back() == *tokenizer.eos_id()) prompt.pop_back();
  return prompt;
}

}  // namespace attune::cli
