// Rotary settings in both dialects: rope_theta with rope_scaling, and rope_parameters (flat, or one object a layer type).
#include <cmath>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "models/families/family.h"
#include "util/error.h"

namespace attune::models::families {
namespace {

using Type = RopeConfig::Type;

const std::map<std::string, Type>& types() {
  static const std::map<std::string, Type> known{{"default", Type::standard}, {"linear", Type::linear}, {"dynamic", Type::dynamic},
                                                 {"yarn", Type::yarn}, {"longrope", Type::longrope}, {"llama3", Type::llama3}};
  return known;
}

double positive(const Json& object, const std::string& key, double fallback, const std::string& where) {
  const double x = number_or(object, key, fallback, where);
  if (!(x > 0 && std::isfinite(x))) refuse("{}: \"{}\" is {}; expected a number above 0", where, key, x);
  return x;
}

void check_llama3(RopeConfig& rope, const Json& s, const std::string& where) {
  rope.low_freq_factor = number_or(s, "low_freq_factor", 0, where);
  rope.high_freq_factor = number_or(s, "high_freq_factor", 0, where);
  if (!(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor))
    refuse("{}: llama3 scaling needs 0 < low_freq_factor < high_freq_factor", where);
}

void read_yarn(RopeConfig& rope, const Json& s, const std::string& where) {
  const auto stretched = [&](double mscale) { return rope.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1; };
  rope.beta_fast = positive(s, "beta_fast", 32, where);
  rope.beta_slow = positive(s, "beta_slow", 1, where);
  if (rope.beta_fast < rope.beta_slow) refuse("{}: beta_fast ({}) is below beta_slow ({})", where, rope.beta_fast, rope.beta_slow);
  rope.truncate = flag_or(s, "truncate", true, where);
  const double mscale = number_or(s, "mscale", 0, where), all = number_or(s, "mscale_all_dim", 0, where);
  const double usual = mscale != 0 && all != 0 ? stretched(mscale) / stretched(all) : stretched(1);
  rope.attention_factor = positive(s, "attention_factor", usual, where);
}

std::vector<double> factors(const Json& s, const char* key, size_t count, const std::string& where) {
  if (!s.contains(key) || !s[key].is_array() || s[key].size() != count)
    refuse("{}: \"{}\" must be a list of {} numbers, one for each pair of rotary dimensions", where, key, count);
  std::vector<double> out;
  for (const Json& x : s[key]) {
    if (!x.is_number() || !(x.get<double>() > 0)) refuse("{}: \"{}\" must hold numbers above 0, not {}", where, key, x.dump());
    out.push_back(x.get<double>());
  }
  return out;
}

// Dao et al.'s LongRoPE as Phi-3 uses it: two lists of factors, and a scale that grows with the stretch.
void read_longrope(RopeConfig& rope, const Json& s, const RopeContext& c, const std::string& where) {
  const auto pairs = static_cast<size_t>(rope.rotary_dim(c.head_dim) / 2);
  rope.short_factor = factors(s, "short_factor", pairs, where);
  rope.long_factor = factors(s, "long_factor", pairs, where);
  const double stretch = positive(s, "factor", c.max_positions / rope.original_max_position_embeddings, where);
  if (!(rope.original_max_position_embeddings > 1)) refuse("{}: \"original_max_position_embeddings\" must be above 1", where);
  const double usual = stretch <= 1 ? 1 : std::sqrt(1 + std::log(stretch) / std::log(rope.original_max_position_embeddings));
  rope.attention_factor = positive(s, "attention_factor", usual, where);
}

// One flat object of settings; `theta` is what holds where it names none.
RopeConfig one(const Json& s, double theta, const RopeContext& c, const std::string& place) {
  std::string where = place;
  RopeConfig rope;
  rope.theta = positive(s, "rope_theta", theta, where);
  rope.partial_rotary_factor = number_or(s, "partial_rotary_factor", c.partial_rotary_factor, where);
  if (!(rope.partial_rotary_factor > 0 && rope.partial_rotary_factor <= 1) || rope.rotary_dim(c.head_dim) < 2 || rope.rotary_dim(c.head_dim) % 2)
    refuse("{}: \"partial_rotary_factor\" is {}; it must turn an even number of the {} dimensions of a head", where,
           rope.partial_rotary_factor, c.head_dim);
  const std::string name = text_or(s, "rope_type", text_or(s, "type", "default", where), where);
  const auto it = types().find(name == "su" ? "longrope" : name);
  if (it == types().end()) {
    std::vector<std::string> known;
    for (const auto& [type, value] : types()) known.push_back(type);
    refuse("{}: rope_type \"{}\" is not supported; known are {}", where, name, fmt::join(known, ", "));
  }
  rope.type = it->second;
  if (rope.type == Type::standard) return rope;
  where += " (" + name + ")";
  // Dynamic scaling begins where the model ends; the others know the length that it was trained with first.
  const double original = c.original_max_positions > 0 ? c.original_max_positions : number_or(s, "original_max_position_embeddings", c.max_positions, where);
  rope.original_max_position_embeddings = rope.type == Type::dynamic ? c.max_positions : original;
  if (!(rope.original_max_position_embeddings >= 1 && rope.original_max_position_embeddings < 1e12))
    refuse("{}: \"original_max_position_embeddings\" is {}; expected a length", where, rope.original_max_position_embeddings);
  if (rope.type == Type::longrope) {
    read_longrope(rope, s, c, where);
    return rope;
  }
  const double ratio = c.max_positions / rope.original_max_position_embeddings;
  rope.factor = positive(s, "factor", rope.type == Type::yarn && ratio > 1 ? ratio : 0, where);
  if (rope.type == Type::llama3) check_llama3(rope, s, where);
  if (rope.type == Type::yarn) read_yarn(rope, s, where);
  if (rope.type == Type::dynamic && (rope.factor < 1 || rope.rotary_dim(c.head_dim) < 4))
    refuse("{}: dynamic scaling needs a factor of at least 1 and four rotary dimensions", where);
  return rope;
}

}  // namespace

void read_rope(DecoderConfig& c, const Json& config, const RopeContext& context, const std::string& where) {
  const char* key = present(config, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  const double theta = number_or(config, "rope_theta", context.theta, where);
  const double local_theta = number_or(config, "rope_local_base_freq", context.local_theta, where);
  static const Json none = Json::object();
  const Json& settings = present(config, key) ? config[key] : none;
  if (!settings.is_object()) refuse("{}: \"{}\" must be an object", where, key);
  const std::string inside = &settings == &none ? where : where + " " + key;
  const bool nested = settings.contains("full_attention") || settings.contains("sliding_attention");
  const auto part = [&](const char* name) -> const Json& {
    if (!nested || !present(settings, name)) return none;
    if (!settings[name].is_object()) refuse("{}: \"{}\" must be an object", inside, name);
    return settings[name];
  };
  c.rope = one(nested ? part("full_attention") : settings, theta, context, inside + (nested ? " full_attention" : ""));
  if (nested || local_theta > 0)
    c.local_rope = one(part("sliding_attention"), local_theta > 0 ? local_theta : theta, context, inside + " sliding_attention");
}

}  // namespace attune::models::families
