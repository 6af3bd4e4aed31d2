#include "formats/peft.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "formats/safetensors.h"
#include "formats/torch_file.h"
#include "util/error.h"
#include "util/files.h"
#include "util/pattern.h"

namespace attune::formats {
namespace {

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kTensors = "adapter_model.safetensors";
constexpr const char* kTorchTensors = "adapter_model.bin";

bool ends_with_name(const std::string& path, const std::string& name) {
  return path == name || (path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

// Whether the whole of `text` matches.
bool matches(const std::string& expression, const std::string& text, const char* key) {
  return Pattern(fmt::format("\\A(?:{})\\z", expression), fmt::format("{}: {}", kConfig, key)).found_in(text);
}

// The number after the first "<word>." of a path: PEFT's layer index.
std::optional<int64_t> layer_index(const std::string& path, const std::vector<std::string>& words) {
  for (size_t at = path.find('.'); at != std::string::npos; at = path.find('.', at + 1)) {
    const size_t end = path.find('.', at + 1);
    if (end == std::string::npos) return std::nullopt;
    int64_t index = 0;
    const auto [stop, error] = std::from_chars(path.data() + at + 1, path.data() + end, index);
    if (error != std::errc() || stop != path.data() + end) continue;
    const size_t begin = at == 0 ? 0 : path.rfind('.', at - 1) + 1;
    const std::string word = path.substr(begin, at - begin);
    if (words.empty() || std::find(words.begin(), words.end(), word) != words.end()) return index;
  }
  return std::nullopt;
}

double pattern_value(const std::vector<std::pair<std::string, double>>& patterns, const std::string& module, double fallback, const char* key) {
  for (const auto& [expression, value] : patterns)
    if (matches(fmt::format("(.*\\.)?({})", expression), module, key)) return value;
  return fallback;
}

// Typed access to one file's keys.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  bool present(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  double number(const char* key, double fallback, double low, double high) const {
    if (!present(key)) return fallback;
    const double x = json_[key].is_number() ? json_[key].get<double>() : NAN;
    if (!(x >= low && x <= high)) fail("{}: \"{}\" must be a number from {} to {}, not {}", where_, key, low, high, json_[key].dump().substr(0, 40));
    return x;
  }
  bool flag(const char* key) const {
    if (!present(key)) return false;
    if (!json_[key].is_boolean()) fail("{}: \"{}\" must be true or false", where_, key);
    return json_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& fallback = "") const {
    if (!present(key)) return fallback;
    if (!json_[key].is_string()) fail("{}: \"{}\" must be a text", where_, key);
    return json_[key].get<std::string>();
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> out;
    if (!present(key)) return out;
    if (json_[key].is_string()) return {json_[key].get<std::string>()};
    if (!json_[key].is_array()) fail("{}: \"{}\" must be a list of names", where_, key);
    for (const Json& item : json_[key]) {
      if (!item.is_string()) fail("{}: \"{}\" must hold names", where_, key);
      out.push_back(item.get<std::string>());
    }
    return out;
  }
  std::vector<int64_t> integers(const char* key) const {
    std::vector<int64_t> out;
    if (!present(key)) return out;
    for (const Json& item : json_[key].is_array() ? json_[key] : Json::array({json_[key]})) {
      if (!item.is_number_integer()) fail("{}: \"{}\" must hold whole numbers", where_, key);
      out.push_back(item.get<int64_t>());
    }
    return out;
  }
  std::vector<std::pair<std::string, double>> map(const char* key, double low, double high) const {
    std::vector<std::pair<std::string, double>> out;
    if (!present(key)) return out;
    if (!json_[key].is_object()) fail("{}: \"{}\" must be a map from names to numbers", where_, key);
    for (const auto& [name, value] : json_[key].items()) {
      const double x = value.is_number() ? value.get<double>() : NAN;
      if (!(x >= low && x <= high)) fail("{}: {} \"{}\" must be a number from {} to {}", where_, key, name, low, high);
      out.emplace_back(name, x);
    }
    return out;
  }
  // Names, or one expression.
  void names_or_pattern(const char* key, std::vector<std::string>& names, std::string& pattern) const {
    if (present(key) && json_[key].is_string()) pattern = json_[key].get<std::string>();
    else names = texts(key);
  }
  // What is on here changes results in a way that is not known.
  void refuse_if_on(const std::vector<const char*>& keys) const {
    for (const char* key : keys) {
      if (!present(key)) continue;
      const Json& v = json_[key];
      const bool off = (v.is_boolean() && !v.get<bool>()) || (v.is_structured() && v.empty());
      if (!off) refuse("{}: \"{}\" is a feature of adapters that is not supported", where_, key);
    }
  }

 private:
  const Json& json_;
  std::string where_;
};

constexpr double kMostRank = 1 << 20;

Json texts_or_null(const std::vector<std::string>& items) { return items.empty() ? Json(nullptr) : Json(items); }

// 16 where it is whole, 16.5 otherwise.
Json number_json(double x) { return x == std::floor(x) && std::abs(x) < 1e15 ? Json(static_cast<int64_t>(x)) : Json(x); }

Json map_json(const std::vector<std::pair<std::string, double>>& pairs) {
  Json out = Json::object();
  for (const auto& [name, value] : pairs) out[name] = number_json(value);
  return out;
}

}  // namespace

int64_t LoraConfig::rank_of(const std::string& module) const {
  return static_cast<int64_t>(pattern_value(rank_pattern, module, static_cast<double>(r), "rank_pattern"));
}

double LoraConfig::scale_of(const std::string& module) const {
  const auto rank = static_cast<double>(rank_of(module));
  return pattern_value(alpha_pattern, module, alpha, "alpha_pattern") / (use_rslora ? std::sqrt(rank) : rank);
}

bool LoraConfig::saves(const std::string& module) const {
  for (size_t end = 0; end != std::string::npos;) {
    end = module.find('.', end + 1);
    const std::string outer = module.substr(0, end);
    for (const std::string& key : modules_to_save)
      if (outer.ends_with(key)) return true;
  }
  return false;
}

bool LoraConfig::targets(const std::string& module) const {
  if (saves(module)) return false;
  if (!exclude_pattern.empty() && matches(exclude_pattern, module, "exclude_modules")) return false;
  for (const std::string& name : exclude_modules)
    if (ends_with_name(module, name)) return false;
  if (!target_pattern.empty()) return matches(target_pattern, module, "target_modules");
  if (std::find(target_modules.begin(), target_modules.end(), module) != target_modules.end()) return true;
  if (std::none_of(target_modules.begin(), target_modules.end(), [&](const std::string& n) { return ends_with_name(module, n); })) return false;
  if (layers_to_transform.empty()) return true;
  const auto index = layer_index(module, layers_pattern);
  return index && std::find(layers_to_transform.begin(), layers_to_transform.end(), *index) != layers_to_transform.end();
}

bool is_adapter(const fs::path& directory) { return fs::exists(directory / kConfig); }

LoraConfig read_lora_config(const fs::path& directory) {
  if (!fs::is_directory(directory)) refuse("{}: not a directory. An adapter is a directory with {} and {}", directory.string(), kConfig, kTensors);
  if (!is_adapter(directory)) refuse("{}: has no {}; expected an adapter as PEFT saves it", directory.string(), kConfig);
  const std::string where = (directory / kConfig).string();
  const Json json = parse_json(read_file(directory / kConfig, 16 << 20), where);
  if (!json.is_object()) fail("{}: must hold a JSON object", where);
  const Reader in(json, where);
  if (const std::string type = in.text("peft_type", "missing"); type != "LORA")
    refuse("{}: peft_type is {}; only LORA is supported (with rsLoRA)", where, type);
  in.refuse_if_on({"fan_in_fan_out", "lora_bias", "layer_replication", "target_parameters", "trainable_token_indices", "megatron_config",
                   "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config"});
  LoraConfig c;
  c.base_model = in.text("base_model_name_or_path");
  c.r = static_cast<int64_t>(in.number("r", 8, 1, kMostRank));
  c.alpha = in.number("lora_alpha", 8, -1e9, 1e9);
  c.dropout = in.number("lora_dropout", 0, 0, 0.999);
  in.names_or_pattern("target_modules", c.target_modules, c.target_pattern);
  in.names_or_pattern("exclude_modules", c.exclude_modules, c.exclude_pattern);
  c.modules_to_save = in.texts("modules_to_save");
  c.layers_to_transform = in.integers("layers_to_transform");
  c.layers_pattern = in.texts("layers_pattern");
  c.rank_pattern = in.map("rank_pattern", 1, kMostRank);
  c.alpha_pattern = in.map("alpha_pattern", -1e9, 1e9);
  c.bias = in.text("bias", "none");
  if (c.bias != "none" && c.bias != "all" && c.bias != "lora_only") fail("{}: \"bias\" must be none, all or lora_only, not {}", where, c.bias);
  c.use_rslora = in.flag("use_rslora");
  c.use_dora = in.flag("use_dora");
  if (in.present("task_type") && json["task_type"].is_string()) c.task_type = json["task_type"].get<std::string>();
  if (in.present("init_lora_weights") && json["init_lora_weights"].is_string()) c.init_lora_weights = json["init_lora_weights"].get<std::string>();
  if (in.flag("ensure_weight_tying") && (c.targets("lm_head") || c.targets("model.embed_tokens") || c.saves("lm_head") || c.saves("model.embed_tokens")))
    refuse("{}: ensure_weight_tying ties what is trained of embed_tokens and lm_head, which is not supported", where);
  // Others change the base that the adapter belongs to (its residual), or are not known.
  static const std::vector<std::string> plain{"true", "false", "gaussian", "eva", "orthogonal"};
  if (std::find(plain.begin(), plain.end(), c.init_lora_weights) == plain.end())
    refuse("{}: init_lora_weights is {}: such an adapter belongs to a base that was changed with it. Convert it to plain LoRA with PEFT "
           "(save_pretrained with path_initial_model_for_weight_conversion)", where, c.init_lora_weights);
  return c;
}

Json lora_config_json(const LoraConfig& c) {
  std::vector<std::string> targets = c.target_modules;
  std::sort(targets.begin(), targets.end());
  Json j;
  j["alpha_pattern"] = map_json(c.alpha_pattern);
  j["auto_mapping"] = nullptr;
  j["base_model_name_or_path"] = c.base_model;
  j["bias"] = c.bias;
  j["exclude_modules"] = c.exclude_pattern.empty() ? texts_or_null(c.exclude_modules) : Json(c.exclude_pattern);
  j["fan_in_fan_out"] = false;
  j["inference_mode"] = true;
  j["init_lora_weights"] = c.init_lora_weights == "true" ? Json(true) : c.init_lora_weights == "false" ? Json(false) : Json(c.init_lora_weights);
  j["layers_pattern"] = texts_or_null(c.layers_pattern);
  j["layers_to_transform"] = c.layers_to_transform.empty() ? Json(nullptr) : Json(c.layers_to_transform);
  j["lora_alpha"] = number_json(c.alpha);
  j["lora_dropout"] = c.dropout;
  j["modules_to_save"] = texts_or_null(c.modules_to_save);
  j["peft_type"] = "LORA";
  j["r"] = c.r;
  j["rank_pattern"] = map_json(c.rank_pattern);
  j["revision"] = nullptr;
  j["target_modules"] = c.target_pattern.empty() ? Json(targets) : Json(c.target_pattern);
  j["task_type"] = c.task_type;
  j["use_dora"] = c.use_dora;
  j["use_rslora"] = c.use_rslora;
  return j;
}

std::string base_layer_name(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return fmt::format("{}{}.base_layer{}", kAdapterPrefix, parameter.substr(0, dot), parameter.substr(dot));
}

std::unique_ptr<TensorFile> open_adapter(const fs::path& directory) {
  if (fs::exists(directory / kTensors)) return std::make_unique<SafetensorsFile>(safe_child(directory, kTensors, directory.string()));
  if (fs::exists(directory / kTorchTensors)) return std::make_unique<TorchFile>(safe_child(directory, kTorchTensors, directory.string()));
  refuse("{}: has neither {} nor {}", directory.string(), kTensors, kTorchTensors);
}

}  // namespace attune::formats
